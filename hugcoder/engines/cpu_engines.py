"""Runs FSDP2 and DeepSpeed on the CPU: processes over gloo replace GPUs, for tests and laptops.

This is the only place that repairs what accelerate and DeepSpeed do without a GPU; with a GPU it
does nothing. accelerate 1.15 turns only worlds of GPUs into FSDP (AcceleratorState) and trains
other worlds plain data parallel without a warning, so a gloo world must say that it has GPUs.
DeepSpeed 0.19.8 compiles a shared-memory collective at its start, for minutes, under a lock that a
killed compilation leaves for ever; torch's gloo does not need that collective.
"""

import os

import torch

from hugcoder.engines.launched import launched_with
from hugcoder.engines.repairs import warn_of_another_release


def prepare_cpu_engines(fsdp: bool = False) -> None:
    """Make the engine that the launcher or the recipe (`fsdp`) asks for work without a GPU.

    Call it before accelerate's state exists. Does nothing when there is an accelerator.
    """
    if torch.accelerator.is_available():
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # accelerate imports DeepSpeed, which would warn
    if "LOCAL_RANK" not in os.environ:
        return
    if fsdp or launched_with("FSDP"):
        _let_gloo_shard()
    if launched_with("DEEPSPEED"):
        _keep_deepspeed_from_compiling()


def _let_gloo_shard() -> None:
    warn_of_another_release("accelerate")
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    def gloo_as_gpu(*args, **kwargs) -> tuple[str, DistributedType]:
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        return "gloo", DistributedType.MULTI_GPU

    PartialState._prepare_backend = gloo_as_gpu


def _keep_deepspeed_from_compiling() -> None:
    warn_of_another_release("deepspeed")
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False
