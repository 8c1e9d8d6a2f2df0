"""Checks the values of the Trainer's settings before anything is loaded.

Refuses values that the Trainer would reject only after the model is built, and values that it would
accept and ignore. `hugcoder.run.trainer_settings` lists the settings that can be given.
"""

import os
from typing import TYPE_CHECKING, Any

import torch

from hugcoder.engines.launched import RANKS, WORLD_SIZES, launched_processes, number
from hugcoder.ranges import (
    COUNT_OR_NONE,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    Range,
    check_choice,
    check_ranges,
    check_steps_or_share,
    plain_value,
)
from hugcoder.refusal import Refusal
from hugcoder.run.mapping_settings import KEYS, check_mapping
from hugcoder.run.optimizer_checks import OPTIMIZERS, check_optimizer
from hugcoder.run.schedule import check_schedule
from hugcoder.run.tracker_checks import check_trackers

if TYPE_CHECKING:
    from transformers import TrainingArguments

# ---- values --------------------------------------------------------------------------------------

UP_TO_A_MILLION = Range(1, 10**6, is_whole=True)
RANGES = {
    "per_device_train_batch_size": UP_TO_A_MILLION,
    "per_device_eval_batch_size": UP_TO_A_MILLION,
    "gradient_accumulation_steps": UP_TO_A_MILLION,
    "global_batch_size": Range(0, 10**9, is_whole=True),
    "num_train_epochs": Range(0, 10**6, above=True),
    "seed": SEED,
    "learning_rate": NOT_NEGATIVE,  # 0 trains nothing, as asked
    "weight_decay": NOT_NEGATIVE,
    "adam_beta1": Range(0, 1, below=True),
    "adam_beta2": Range(0, 1, below=True),
    "adam_epsilon": POSITIVE,
    "max_grad_norm": NOT_NEGATIVE,  # 0 = no engine scales gradients down
    "warmup_steps": NOT_NEGATIVE,
    "neftune_noise_alpha": NOT_NEGATIVE,
    "torch_empty_cache_steps": UP_TO_A_MILLION,
    "skip_spike_sigmas": NOT_NEGATIVE,
    "max_skipped_steps": COUNT_OR_NONE,
    "hang_timeout_minutes": Range(0, 10**7),
    "eval_delay": NOT_NEGATIVE,
    "save_total_limit": COUNT_OR_NONE,
    "dataloader_num_workers": Range(0, 10**4, is_whole=True),
    "dataloader_prefetch_factor": UP_TO_A_MILLION,
    "ddp_bucket_cap_mb": UP_TO_A_MILLION,
    "ddp_timeout": Range(1, 10**9, is_whole=True),  # seconds
}

LOG_LEVELS = ("passive", "detail", "debug", "info", "warning", "error", "critical")
# setting -> its values, and what to add to a refusal
CHOICES = {
    "torch_compile_backend": (("inductor", "aot_eager", "eager"), ""),
    "torch_compile_mode": (
        ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
        "",
    ),
    "dataloader_multiprocessing_context": (("fork", "forkserver", "spawn"), ""),
    "log_level": (LOG_LEVELS, ""),
    "log_level_replica": (LOG_LEVELS, ""),
}


def check_settings(arguments: "TrainingArguments") -> None:
    """Refuse values that the Trainer would reject later, or accept and ignore."""
    rank = _launched_local_rank()
    for name, (value, reason) in arguments.FIXED.items():
        _check_fixed(name, getattr(arguments, name), value, reason)
    check_ranges(arguments, arguments.RANGES)
    check_steps_or_share(arguments, "logging_steps", "eval_steps", "save_steps")
    for name, (allowed, more) in arguments.CHOICES.items():
        check_choice(arguments, name, allowed, more)
    for name in KEYS:
        check_mapping(arguments, name)
    _check_names(arguments)
    check_optimizer(arguments)
    check_schedule(arguments)
    _merge_recomputing_names(arguments)
    _check_dependents(arguments)
    check_trackers(arguments)
    _check_devices(arguments, rank)


def _check_fixed(name: str, found: Any, value: Any, reason: str) -> None:
    nothing = (None, "", [])  # values of a setting that is not given
    is_same = found == value or (found in nothing and value in nothing)
    if is_same or (value == "no" and found is False):
        return
    way_out = "leave it out" if value in nothing else f"leave it out, or give {value}"
    raise Refusal(f"{name} {plain_value(found)} is not possible here: {reason}; {way_out}.")


def _merge_recomputing_names(arguments: "TrainingArguments") -> None:
    """Move gradient_checkpointing, the older name, into activation_checkpointing.

    Raises: Refusal when the two contradict each other.
    """
    new, old = arguments.activation_checkpointing, arguments.gradient_checkpointing
    if None not in (new, old) and bool(new) != bool(old):
        raise Refusal(
            f"activation_checkpointing {new} and gradient_checkpointing {old}, its older name, "
            "contradict each other; give only the first."
        )
    arguments.activation_checkpointing, arguments.gradient_checkpointing = bool(new or old), None


def _check_names(arguments: "TrainingArguments") -> None:
    """Check the names of the schedule and the optimizer, which become enumerations."""
    from transformers.trainer_utils import SchedulerType

    kinds = tuple(kind.value for kind in SchedulerType)
    check_choice(arguments, "lr_scheduler_type", kinds)
    check_choice(arguments, "optim", tuple(OPTIMIZERS))


# ---- settings that another one switches off ------------------------------------------------------


def _check_dependents(arguments: "TrainingArguments") -> None:
    """Refuse a setting that differs from its default but has no effect because of another."""
    defaults = {name: field.default for name, field in arguments.__dataclass_fields__.items()}
    for name, reason in arguments.idle_settings():
        value = plain_value(getattr(arguments, name))
        if value != plain_value(defaults[name]):
            default = plain_value(defaults[name])
            can_be_given = default not in (None, "")  # a flag may undo the value of a recipe
            way = f"leave it out, or give its default {default}" if can_be_given else "leave it out"
            raise Refusal(f"{name} {value} has no effect here: {reason}; {way}.")


# ---- devices -------------------------------------------------------------------------------------


def _check_devices(arguments: "TrainingArguments", rank: int) -> None:
    """Refuse settings that need a GPU, or that contradict the launcher."""
    has_gpu = torch.accelerator.is_available() and not arguments.use_cpu
    if arguments.tf32 and not has_gpu:
        raise Refusal("tf32 true needs a GPU, but there is none; leave it out, or give false.")
    if arguments.local_rank not in (-1, rank):
        raise Refusal(
            f"local_rank {arguments.local_rank} is not what the launcher says (LOCAL_RANK {rank}); "
            "start with accelerate launch or torchrun, which say it themselves."
        )


def _launched_local_rank() -> int:
    """Return LOCAL_RANK, or -1. Raises: Refusal for a launcher's variables without a launcher."""
    names = [name for name in (*WORLD_SIZES, *RANKS, "LOCAL_RANK") if name in os.environ]
    numbers = {name: number(name) for name in names}
    rank = numbers.get("LOCAL_RANK", -1)
    if (rank >= 0 or launched_processes() > 1) and "MASTER_ADDR" not in os.environ:
        raise Refusal(
            f"the environment has {', '.join(names)}, as a launcher sets it, but not MASTER_ADDR; "
            f"for one process `unset {' '.join(names)}`, for several start with torchrun or "
            "accelerate launch."
        )
    return rank
