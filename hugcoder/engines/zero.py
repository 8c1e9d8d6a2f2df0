"""Adds what the Trainer's own integration of DeepSpeed ZeRO lacks.

Holds the guard at the engine's step, resuming with another number of processes, and reading the
full weights of a checkpoint. What DeepSpeed needs without a GPU is in cpu_engines.py.
"""

import contextlib
import io
import logging
import math
import os
import shutil
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from hugcoder.engines.collectives import on_rank_0
from hugcoder.engines.gradient_norm import sum_of_squares
from hugcoder.engines.launched import launched_with
from hugcoder.engines.repairs import warn_of_another_release
from hugcoder.files import full_disk_shown
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

LATEST = "latest"  # the file in a checkpoint that names DeepSpeed's folder


def silence_deprecated_collectives() -> None:
    """Silence torch 2.13's warning, at every step, about collectives that DeepSpeed 0.19 calls."""
    for name in ("all_gather_into_tensor", "reduce_scatter_tensor"):
        warnings.filterwarnings(
            "ignore", rf"`torch\.distributed\.{name}` is deprecated", FutureWarning
        )


def check_offload() -> None:
    """Check that a CPU optimizer's kernel can be compiled. Raises: Refusal when it cannot."""
    if not launched_with("DEEPSPEED"):
        return
    device = os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "none")
    missing = [name for name in (os.environ.get("CXX", "g++"), "ninja") if not shutil.which(name)]
    if device == "cpu" and missing:
        raise Refusal(
            f"offload_optimizer_device cpu needs {' and '.join(missing)} to compile DeepSpeed's "
            "optimizer for CPUs; install it (apt-get install g++ ninja-build), or take "
            "configs/deepspeed.yaml, which keeps the optimizer on the GPUs."
        )
    if device == "cpu" and os.environ.get("LOCAL_RANK", "0") == "0":
        _tell_of_locks()


def _tell_of_locks() -> None:
    """Warn of a lock that a killed compilation left; torch would wait for it without a word."""
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR", get_default_build_root()))
    for lock in root.rglob("cpu_adam/lock"):
        logger.warning("%s is there: if no other process compiles now, delete it and restart", lock)


@contextlib.contextmanager
def without_zero3() -> Iterator[None]:
    """Let transformers build and load models as in one process, inside the block."""
    from transformers.integrations import deepspeed

    if not deepspeed.is_deepspeed_zero3_enabled():
        yield
        return
    config = deepspeed._hf_deepspeed_config_weak_ref()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed.set_hf_deepspeed_config(config)


def keep_hooks_from_compiling(engine: Any) -> None:
    """Keep torch.compile from compiling the hooks of stage 3.

    DeepSpeed 0.19.8 does so for the hooks before a module and forgets those after it. Each of them
    belongs to one module, so torch would compile one for each module until it gives up, with 8
    lines about recompile_limit for every kind of hook.
    """
    if not engine.is_compiled or engine.zero_optimization_stage() < 3:
        return
    warn_of_another_release("deepspeed")
    for module in engine.module.modules():
        for number, hook in module._forward_hooks.items():
            module._forward_hooks[number] = torch.compiler.disable(hook)


# ---- guard -----------------------------------------------------------------------------------


def guard_engine(engine: Any, rejects: Callable[[float], bool]) -> None:
    """Ask `rejects` about the norm of every step's gradients, before the step is made.

    DeepSpeed treats a rejected step as an overflow: the gradients are cleared, nothing is updated,
    the schedule waits, and in fp16 the loss scale falls. `rejects` gets the norm over all ranks,
    without loss scale and before clipping, the same on every rank. If it is not finite, `rejects`
    gets infinity, and the step is rejected whatever the answer.
    """
    warn_of_another_release("deepspeed")
    optimizer = engine.optimizer
    check_overflow = optimizer.check_overflow

    def judged_overflow(partition_gradients: bool = True) -> None:
        check_overflow(partition_gradients)
        if optimizer.overflow:
            rejects(math.inf)  # DeepSpeed does not compute the norm then

    optimizer.check_overflow = judged_overflow
    if engine.zero_optimization_stage() == 3:
        _guard_stage_3(optimizer, rejects)
    else:
        _guard_stages_1_and_2(optimizer, rejects)


def _guard_stage_3(optimizer: Any, rejects: Callable[[float], bool]) -> None:
    from deepspeed.runtime.utils import combine_grad_norm_groups

    norms_of_groups = optimizer._get_norm_groups
    is_replaced = optimizer.offload_optimizer and _is_on_cpu()

    def judged_norms() -> list[torch.Tensor]:
        norms = [_norm_on_cpu(optimizer, True)] if is_replaced else norms_of_groups()
        total = combine_grad_norm_groups(norms)
        is_rejected = rejects(float(total) / optimizer.loss_scale)
        return [torch.full_like(total, math.inf)] if is_rejected else norms

    optimizer._get_norm_groups = judged_norms


def _guard_stages_1_and_2(optimizer: Any, rejects: Callable[[float], bool]) -> None:
    total_norm, is_replaced = optimizer.scaled_global_norm, _is_on_cpu()
    optimizer.check_grad_overflow = True  # otherwise bf16 makes the step despite an invalid norm

    def judged_norm(norm_type: int = 2) -> torch.Tensor:
        is_offloaded = optimizer.cpu_offload
        total = _norm_on_cpu(optimizer, is_offloaded) if is_replaced else total_norm(norm_type)
        is_rejected = rejects(float(total) / optimizer.loss_scale)
        return torch.full_like(total, math.inf) if is_rejected else total

    optimizer.scaled_global_norm = judged_norm


def _is_on_cpu() -> bool:
    from deepspeed.accelerator import get_accelerator

    return get_accelerator().device_name() == "cpu"


def _norm_on_cpu(optimizer: Any, is_offloaded: bool) -> torch.Tensor:
    """Compute the norm over all ranks in float64, as for other engines on CPUs.

    DeepSpeed 0.19.8 also takes the norm of each tensor in float64, but rounds their sum to float32,
    except in stage 3 without offload.
    """
    if is_offloaded:
        squares = [norm.double() ** 2 for norm in optimizer.norm_for_param_grads.values()]
    else:
        gradients = [grad for group in optimizer.averaged_gradients.values() for grad in group]
        squares = [sum_of_squares(grad) for grad in gradients]
    total = torch.stack([torch.zeros((), dtype=torch.float64), *squares]).sum()
    torch.distributed.all_reduce(total, group=optimizer.dp_process_group)
    return total.sqrt().nan_to_num(nan=math.inf, posinf=math.inf)


# ---- resuming --------------------------------------------------------------------------------


def load_checkpoint(
    engine: Any, checkpoint: Path, scratch: Path, holds_all_weights: bool = True
) -> None:
    """Load weights and optimizer state into a new engine; all ranks call it.

    A checkpoint of another number of processes is first converted into DeepSpeed's universal form,
    in a folder below `scratch` that all ranks see, with room for 2 x 12 bytes a parameter.

    Args: holds_all_weights: false when only adapters are trained and saved.

    Raises: Refusal when the checkpoint was not written by ZeRO of this stage.
    """
    world_size = len(shards_of(checkpoint))
    check_stage(checkpoint, engine.zero_optimization_stage())
    on_rank_0(lambda: remove_left_overs(scratch))
    if world_size == torch.distributed.get_world_size():
        _load(engine, checkpoint, folder_of(checkpoint).name, holds_all_weights)
    else:
        logger.info("%s is of %s process(es): resharding it", checkpoint, world_size)
        load_resharded(engine, checkpoint, scratch)


def _load(engine: Any, folder: Path, tag: str, is_strict: bool = True) -> None:
    loaded, _ = engine.load_checkpoint(str(folder), tag=tag, load_module_strict=is_strict)
    if loaded is None:  # DeepSpeed would train on from random weights
        raise Refusal(f"DeepSpeed cannot load {folder / tag}; give another checkpoint.")


def folder_of(checkpoint: Path) -> Path:
    """Find DeepSpeed's own folder in a checkpoint, global_stepN.

    Raises: Refusal when there is none.
    """
    latest = checkpoint / LATEST
    if not latest.is_file():
        raise Refusal(
            f"{checkpoint} was not written by DeepSpeed; resume it with the engine that wrote it, "
            "or give another --resume_from_checkpoint."
        )
    return checkpoint / latest.read_text(encoding="utf-8").strip()


def shards_of(checkpoint: Path) -> list[Path]:
    """List the optimizer's shards, one for each process."""
    return sorted(folder_of(checkpoint).glob("*zero_pp_rank_*_optim_states.pt"))


def check_stage(checkpoint: Path, stage: int) -> None:
    """Check the ZeRO stage. Raises: Refusal when another stage wrote the shards."""
    shard = torch.load(shards_of(checkpoint)[0], map_location="cpu", mmap=True, weights_only=False)
    found = int(shard["optimizer_state_dict"]["zero_stage"])
    if found != stage:
        raise Refusal(
            f"{checkpoint} was written by ZeRO-{found}, but now ZeRO-{stage} runs; start with the "
            "accelerate config of the stage that wrote it."
        )


def remove_left_overs(scratch: Path) -> None:
    """Delete the universal form that a start left when it was killed while resharding."""
    for folder in scratch.glob("universal-checkpoint-*"):
        shutil.rmtree(folder)


def load_resharded(engine: Any, checkpoint: Path, scratch: Path) -> None:
    """Load a checkpoint through its universal form, which rank 0 writes and then removes."""
    source = folder_of(checkpoint)
    universal = scratch / f"universal-{checkpoint.name}"
    on_rank_0(lambda: write_universal(source, universal / source.name))
    engine._config.load_universal_checkpoint = True
    try:
        _load(engine, universal, source.name)
    finally:
        engine._config.load_universal_checkpoint = False
    _repair_steps(engine.optimizer.optimizer)
    if engine.zero_optimization_stage() == 3:
        _repair_groups(engine.optimizer.optimizer, universal / source.name)
    torch.distributed.barrier()
    on_rank_0(lambda: shutil.rmtree(universal))


def write_universal(source: Path, target: Path) -> None:
    """Convert DeepSpeed's folder of a checkpoint, one shard in memory at a time."""
    from deepspeed.checkpoint import ds_to_universal

    settings = Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    target.mkdir(parents=True)
    with full_disk_shown(target), _quiet():
        ds_to_universal.main(settings)


def _repair_steps(optimizer: torch.optim.Optimizer) -> None:
    """Give each part of the optimizer state its own `step`, on the device that the kernel needs.

    After a universal load of stage 3, DeepSpeed 0.19.8 leaves one tensor in all sub-groups, and
    every sub-group counts it up. It also leaves it on the CPU, where fused kernels cannot read it.
    """
    is_on_device = any(g.get("fused") or g.get("capturable") for g in optimizer.param_groups)
    for shard, state in optimizer.state.items():
        if torch.is_tensor(state.get("step")):
            device = shard.device if is_on_device else "cpu"
            state["step"] = state["step"].to(device, copy=True)


def _repair_groups(optimizer: torch.optim.Optimizer, universal: Path) -> None:
    """Give each parameter group its own settings back.

    DeepSpeed 0.19.8 gives all groups the settings of the first, so norms and biases would decay.
    """
    saved = torch.load(universal / "zero" / "optimizer_state.pt", mmap=True, weights_only=False)
    groups = saved["optimizer_state_dict"]["param_groups"]
    for group, saved_group in zip(optimizer.param_groups, groups, strict=True):
        group |= {name: value for name, value in saved_group.items() if name != "params"}


# ---- full weights ----------------------------------------------------------------------------


def gathers(engine: Any) -> bool:
    """Tell whether whole weights are saved; under stage 3 the configuration decides."""
    return engine.zero_optimization_stage() < 3 or engine.zero_gather_16bit_weights_on_model_save()


def gather_from_now_on(engine: Any) -> None:
    """Make stage 3 gather its weights for saving, whatever the configuration says."""
    engine._config.zero_config.gather_16bit_weights_on_model_save = True


def lazy_weights(checkpoint: Path) -> dict[str, Any]:
    """Return a lazy tensor for each name of each full float32 weight; contiguous() makes it.

    The float32 masters are exact; the model that a bf16 run saves is rounded. Needs no GPU and no
    process group. From stage 3, memory holds only the weights that are made; from stages 1 and 2,
    whose models fit on one GPU, all of them.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    tag = folder_of(checkpoint).name
    with _quiet():
        return get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), tag, lazy_mode=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what DeepSpeed's converters print."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
