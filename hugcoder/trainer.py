"""The transformers Trainer with what pretraining on packed FIM rows needs and no callback can do.

Adds the loss apart by kind of token, the isolation self-test before step 1, held-out scores in bits
per byte, Muon, and checkpoints that a manifest completes. Everything else is the Trainer's.
"""

import logging
import math
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from accelerate.utils.operations import ConvertOutputsToFp32
from torch.utils.data import DataLoader, SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hugcoder import checkpoint, isolation
from hugcoder.arguments import PretrainArguments
from hugcoder.batch import PackedCollator
from hugcoder.callbacks.metrics_file import MetricsFile
from hugcoder.callbacks.progress import Progress
from hugcoder.callbacks.throughput import Throughput
from hugcoder.files import full_disk_shown
from hugcoder.loss import loss_by_kind
from hugcoder.model import ModelSize, awake, finish_model_folder
from hugcoder.optimizer import make_muon
from hugcoder.refusal import Refusal
from hugcoder.rows import FIM_MIDDLE, LEFT_TO_RIGHT, NUM_LOSS_KINDS, PackedRows
from hugcoder.world import check_world

logger = logging.getLogger(__name__)


class PretrainTrainer(Trainer):
    """Trains on packed FIM rows; see the module's first lines.

    Args:
        held_out: rows of held-out repositories, `left_to_right` and `fim`; empty = not scored.
        identity: what a checkpoint must share with a run that resumes from it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: PretrainArguments,
        rows: PackedRows,
        held_out: dict[str, PackedRows],
        size: ModelSize,
        identity: dict[str, Any],
    ):
        is_flash = model.config._attn_implementation.startswith("flash")
        collator = PackedCollator(is_flash)
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=held_out or None,
            data_collator=collator,
        )
        check_world(self.accelerator, args)
        self.loss_is_scaled_for_ga = True  # compute_loss divides by the tokens of the whole step
        self.identity, self.tokenizer_folder = identity, rows.codec.folder
        tokens_per_step = args.rows_per_step * rows.settings.row_length
        self.throughput = Throughput(tokens_per_step, size.flops_per_token, args.world_size)
        self._loss_by_kind = torch.compile(loss_by_kind) if args.torch_compile else loss_by_kind
        self._kind_sums = torch.zeros(2, NUM_LOSS_KINDS, device=args.device)
        self._last_logged_row = 0
        self.last_evaluated_step = -1
        for bar in (ProgressCallback, PrinterCallback):
            self.remove_callback(bar)
        self.add_callback(self.throughput)
        self.add_callback(_IsolationProof(self))
        self.add_callback(MetricsFile(Path(args.output_dir) / "metrics.jsonl"))
        self.add_callback(Progress())
        if args.use_liger_kernel:
            logger.warning(
                "use_liger_kernel fuses the loss into the output layer: train/loss_ar and "
                "train/loss_middle are not logged (held-out scores still tell them apart)"
            )

    def _prepare_for_training(self, *args, **kwargs):
        prepared = super()._prepare_for_training(*args, **kwargs)
        keep_half_precision_logits(self.model)
        return prepared

    # ---- loss ------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean loss over the predicted tokens of the whole step, apart by kind on the side."""
        kinds = inputs.pop("kinds")
        if self.args.use_liger_kernel:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        sums, counts = self._loss_by_kind(outputs.logits, labels, kinds)
        self._kind_sums += torch.stack([sums.detach(), counts])
        loss = sums.sum() / (counts.sum() if num_items_in_batch is None else num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # undo the mean over ranks
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._losses_by_kind()
            logs |= self.throughput.read(self.state.global_step)
            logs |= self._data_seen()
            self._refuse_bad_numbers(logs)
        super().log(logs, start_time)

    def _losses_by_kind(self) -> dict[str, float]:
        """Read the sums since the last log line, over all ranks."""
        sums, counts = self.accelerator.reduce(self._kind_sums, reduction="sum").tolist()
        self._kind_sums.zero_()
        names = {LEFT_TO_RIGHT: "loss_ar", FIM_MIDDLE: "loss_middle"}
        return {name: sums[kind] / counts[kind] for kind, name in names.items() if counts[kind]}

    def _data_seen(self) -> dict[str, float]:
        """What the rows since the last log line held, from the plan."""
        stop = self.state.global_step * self.args.rows_per_step
        start, self._last_logged_row = self._last_logged_row, stop
        if start >= stop:
            return {}
        tokens = stop * self.train_dataset.settings.row_length
        shares = self.train_dataset.shares(start, stop)
        seen = {"tokens": tokens, "corpus_epochs": self.train_dataset.epoch_at(stop - 1)}
        return seen | {f"share_{name}": value for name, value in shares.items()}

    def _refuse_bad_numbers(self, logs: dict[str, float]) -> None:
        bad = [name for name in ("loss", "grad_norm") if not math.isfinite(logs.get(name, 0.0))]
        if bad:
            super().log(dict(logs))
            raise Refusal(
                f"{bad[0]} is {logs[bad[0]]} at step {self.state.global_step}: the weights are "
                f"lost. "
                f"Start again from a checkpoint in {self.args.output_dir} with a lower "
                f"--learning_rate."
            )

    # ---- held-out scores -------------------------------------------------------------------------

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Score held-out rows: bits per byte left-to-right, and of middles given both sides."""
        self.last_evaluated_step = self.state.global_step
        self.throughput.pause()
        scored = {name: self._score(rows) for name, rows in self.eval_dataset.items()}
        metrics = {
            f"{metric_key_prefix}_loss": scored["left_to_right"][LEFT_TO_RIGHT]["loss"],
            f"{metric_key_prefix}_bits_per_byte": scored["left_to_right"][LEFT_TO_RIGHT]["bits"],
            f"{metric_key_prefix}_middle_loss": scored["fim"][FIM_MIDDLE]["loss"],
            f"{metric_key_prefix}_middle_bits_per_byte": scored["fim"][FIM_MIDDLE]["bits"],
        }
        self.throughput.go_on()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    @torch.no_grad()
    def _score(self, rows: PackedRows) -> dict[int, dict[str, float]]:
        """Loss in nats a token and bits a byte of each kind of token; runs on every rank."""
        model = self.model.eval()
        num_bytes = torch.from_numpy(rows.codec.num_bytes).to(self.args.device)
        totals = torch.zeros(3, NUM_LOSS_KINDS, device=self.args.device)
        loader = self.accelerator.prepare(
            DataLoader(
                rows,
                batch_size=max(
                    1, min(self.args.per_device_eval_batch_size, len(rows) // self.args.world_size)
                ),
                sampler=SequentialSampler(rows),
                collate_fn=self.data_collator,
            )
        )
        for batch in loader:
            kinds, labels = batch.pop("kinds"), batch.pop("labels")
            logits = model(**batch).logits
            sums, counts = loss_by_kind(logits, labels, kinds)
            sizes = num_bytes[labels.clamp(min=0)] * (labels >= 0)
            by_kind = [(sizes * (kinds == kind)).sum() for kind in range(NUM_LOSS_KINDS)]
            totals += torch.stack([sums, counts, torch.stack(by_kind).float()])
        sums, counts, sizes = self.accelerator.reduce(totals, reduction="sum").tolist()
        model.train()
        return {
            kind: {
                "loss": sums[kind] / max(counts[kind], 1),
                "bits": sums[kind] / math.log(2) / max(sizes[kind], 1),
            }
            for kind in range(NUM_LOSS_KINDS)
        }

    # ---- optimizer -------------------------------------------------------------------------------

    def get_decay_parameter_names(self, model) -> list[str]:
        names = super().get_decay_parameter_names(model)
        return [name for name in names if "embed" not in name]

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None and self.args.use_muon:
            self.optimizer = make_muon(
                self.model if model is None else model,
                muon_learning_rate=self.args.muon_learning_rate,
                muon_weight_decay=self.args.muon_weight_decay,
                learning_rate=self.args.learning_rate,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                epsilon=self.args.adam_epsilon,
            )
        return super().create_optimizer(model)

    # ---- checkpoints -----------------------------------------------------------------------------

    def _save_checkpoint(self, model, trial) -> None:
        """Save, then complete the checkpoint with its manifest once every rank has written."""
        self.throughput.pause()
        with full_disk_shown(Path(self.args.output_dir)):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            if (folder / "config.json").is_file():
                finish_model_folder(folder, self.tokenizer_folder)
            checkpoint.complete(folder, self.identity, self.state.global_step)
        self.throughput.go_on()

    def export(self) -> Path:
        """Write the final model with its tokenizer to <run>/model; collective, all ranks call
        it."""
        folder = Path(self.args.output_dir) / checkpoint.FINAL_MODEL
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        with full_disk_shown(Path(self.args.output_dir)):
            self.save_model(str(folder))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            finish_model_folder(folder, self.tokenizer_folder)
            checkpoint.complete(folder, self.identity, self.state.global_step)
        return folder

    def prove_isolation(self) -> None:
        """Run the self-test on the wrapped model with one micro-batch of crowded rows."""
        model, device = self.model_wrapped, self.args.device

        def forward(inputs: dict[str, Any]) -> torch.Tensor:
            return model(**self._prepare_inputs(inputs)).logits

        model.train()
        indices = self.train_dataset.fullest_rows(self.args.per_device_train_batch_size)
        rows = [self.train_dataset[index] for index in indices]
        dtype = (
            torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else torch.float32
        )
        with awake(self.model):
            sentence = isolation.prove_isolation(rows, forward, self.data_collator, dtype)
        logger.info("%s, %s on %s", sentence, self.model.config._attn_implementation, device)


def keep_half_precision_logits(model: PreTrainedModel) -> None:
    """Take off the wrapper with which accelerate turns all outputs into float32.

    The loss casts the logits itself. A float32 copy of them costs B x T x V x 4 bytes (3.2 GB for
    16k tokens and 49,152 ids) and, measured on two cores with 4,096 ids, a sixth of the step.
    """
    converter = getattr(getattr(model.forward, "__func__", None), "__wrapped__", None)
    if isinstance(converter, ConvertOutputsToFp32):
        model.forward = MethodType(converter.model_forward, model)


class _IsolationProof(TrainerCallback):
    """Runs the self-test when the model is on its device and wrapped, before the first step."""

    def __init__(self, trainer: PretrainTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.prove_isolation()
        self.trainer._last_logged_row = state.global_step * args.rows_per_step
