"""FSDP2 and DeepSpeed on the CPU: two processes over gloo stand in for GPUs, for tests and laptops.

The only place that repairs what accelerate and DeepSpeed do without a GPU; with one it does
nothing. accelerate 1.15 promotes a world to FSDP only from the types of GPUs (AcceleratorState) and
trains plain data parallel in silence otherwise, so a gloo world must call itself one. DeepSpeed
0.19.8 compiles a shared-memory collective when it starts, for minutes, behind a lock that a killed
compilation leaves for ever; torch's gloo does without.
"""

import os

import torch

from hugcoder.engines.launched import launched_with
from hugcoder.engines.repairs import warn_of_another_release


def prepare_cpu_engines(fsdp: bool = False) -> None:
    """Make the engine that the launcher or the recipe (`fsdp`) asked for possible without a GPU.

    Runs before accelerate's state exists. Does nothing where an accelerator is present.
    """
    if torch.accelerator.is_available():
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # accelerate imports it, and it would warn
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
