"""What the tests of initial weights run in ranks: train.py with its model built whole, and a scale.

Not tests; see test_random_init.py.
"""

import json
import os
from functools import partial
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def train_a_whole_model(argv: list[str]) -> None:
    """Run train.py with a model that each rank has in full before accelerate shards it."""
    import train
    from hugcoder.model import build, random_init

    def build_whole(*args, on_meta: bool, **kwargs):
        return random_init.build_random(*args, on_meta=False, **kwargs)

    build.build_random = build_whole
    train.main(argv)


def weigh_the_start(argv: list[str]) -> None:
    """Run train.py until the model has its weights and write what tensors took; first word: file.

    That is when it is built under ZeRO-3, and under FSDP2 when it is prepared, an optimizer without
    state included.
    """
    import train
    from hugcoder.engines.sharded_parameters import whole_shape
    from hugcoder.pretraining import trainer

    def report(model) -> None:
        sizes = [whole_shape(parameter).numel() * 4 for parameter in model.parameters()]
        numbers = {"peak": scale.peak, "whole": sum(sizes), "largest": max(sizes)}
        if int(os.environ["RANK"]) == 0:
            Path(argv[0]).write_text(json.dumps(numbers))
        raise SystemExit(0)

    class WeighedTrainer(trainer.PretrainTrainer):
        def __init__(self, model, *args, **kwargs):
            if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
                report(model)
            super().__init__(model, *args, **kwargs)

        def _prepare_for_training(self, *args):
            super()._prepare_for_training(*args)
            report(self.model)

    trainer.PretrainTrainer = WeighedTrainer
    with LiveBytes() as scale:
        train.main(argv[1:])


class LiveBytes(TorchDispatchMode):
    """Counts the bytes that floating point tensors hold at a time; `peak` is the most seen."""

    def __init__(self):
        super().__init__()
        self.peak = 0
        self.held: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        local = partial(map, lambda t: t._local_tensor if isinstance(t, DTensor) else t)
        for tensor in local(t for t in tree_leaves(result) if isinstance(t, torch.Tensor)):
            is_real = not isinstance(tensor, FakeTensor) and tensor.device.type == "cpu"
            if is_real and tensor.is_floating_point():
                storage = tensor.untyped_storage()
                self.held[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                self._look()
        return result

    def _look(self) -> None:
        """Forget what is freed, but only when the sum with it would be a new peak."""
        if sum(size for _, size in self.held.values()) > self.peak:
            self.held = {key: held for key, held in self.held.items() if not held[0].expired()}
            self.peak = max(self.peak, sum(size for _, size in self.held.values()))
