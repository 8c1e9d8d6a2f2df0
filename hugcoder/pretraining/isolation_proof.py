"""Runs the isolation self-test before the first step, when the model is on its device and wrapped.

`hugcoder.pretraining.isolation` holds the test itself.
"""

import logging
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer, TrainerCallback

from hugcoder.data import row_statistics
from hugcoder.model.residual import with_noisy_residual_outputs
from hugcoder.pretraining.isolation import prove_isolation

logger = logging.getLogger(__name__)


class IsolationProof(TrainerCallback):
    """Tests the model as it is trained, on one micro-batch of the rows with the most documents."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self.trainer
        model = trainer.model_wrapped

        def forward(inputs: dict[str, Any]) -> torch.Tensor:
            return model(**trainer._prepare_inputs(inputs)).logits

        model.train()
        dataset = trainer.train_dataset
        indices = row_statistics.fullest_rows(dataset, args.per_device_train_batch_size)
        rows = [dataset[index] for index in indices]
        dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        with with_noisy_residual_outputs(trainer.model):
            sentence = prove_isolation(rows, forward, trainer.data_collator, dtype)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # there is no backward pass; the first step would see the noise
        kernel = trainer.model.config._attn_implementation
        logger.info("%s, %s on %s", sentence, kernel, args.device)
