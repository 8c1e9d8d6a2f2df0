"""What values the Trainer's settings may have; all else is refused before anything is loaded.

Refused is what the Trainer would stumble over when the model is built, and what it would take and
do nothing with. Which settings there are to give at all is `hugcoder.run.trainer_settings`.
"""

import importlib.util
import json
import math
import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hugcoder.engines.launched import RANKS, WORLD_SIZES, launched_processes, number
from hugcoder.ranges import (
    COUNT,
    COUNT_OR_NONE,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    Range,
    check_ranges,
    check_steps_or_share,
)
from hugcoder.refusal import Refusal
from hugcoder.run.schedule import check_schedule
from hugcoder.run.tracker_checks import check_trackers, trackers_of
from hugcoder.run.trainer_settings import FIXED

if TYPE_CHECKING:
    from hugcoder.pretraining.arguments import PretrainArguments

# ---- values --------------------------------------------------------------------------------------

UP_TO_A_MILLION = Range(1, 10**6, is_whole=True)
RANGES = {
    "per_device_train_batch_size": UP_TO_A_MILLION,
    "per_device_eval_batch_size": UP_TO_A_MILLION,
    "gradient_accumulation_steps": UP_TO_A_MILLION,
    "global_batch_size": Range(0, 10**9, is_whole=True),
    "num_train_epochs": Range(0, 10**6, above=True),
    "seed": SEED,
    "learning_rate": NOT_NEGATIVE,  # 0 trains nothing, as it says
    "muon_learning_rate": NOT_NEGATIVE,
    "muon_weight_decay": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "adam_beta1": Range(0, 1, below=True),
    "adam_beta2": Range(0, 1, below=True),
    "adam_epsilon": POSITIVE,
    "max_grad_norm": NOT_NEGATIVE,  # 0 = none is scaled down, by every engine
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

ONE_PASS = (
    "; the run is one pass over rows that are made for it, so that an epoch would end with the "
    "run: give {} (below 1 = a share of the run)"
)
LOG_LEVELS = ("passive", "detail", "debug", "info", "warning", "error", "critical")
# setting -> its values, and what to add where another is given
CHOICES = {
    "eval_strategy": (("steps", "no"), ONE_PASS.format("eval_steps")),
    "save_strategy": (("steps", "no"), ONE_PASS.format("save_steps")),
    "logging_strategy": (("steps", "no"), ONE_PASS.format("logging_steps")),
    "torch_compile_backend": (("inductor", "aot_eager", "eager"), ""),
    "torch_compile_mode": (
        ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
        "",
    ),
    "dataloader_multiprocessing_context": (("fork", "forkserver", "spawn"), ""),
    "log_level": (LOG_LEVELS, ""),
    "log_level_replica": (LOG_LEVELS, ""),
}

MOMENTS = ("adam_beta1", "adam_beta2", "adam_epsilon")
# optimizer -> the settings of AdamW that it reads, and the names it takes in optim_args
OPTIMIZERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "adamw_torch_fused": (MOMENTS, ()),
    "adamw_torch": (MOMENTS, ()),
    "adafactor": ((), ()),
    "sgd": ((), ("momentum", "dampening", "nesterov")),
    "adagrad": ((), ("lr_decay", "eps")),
    "rmsprop": ((), ("momentum", "alpha", "eps", "centered")),
    "adamw_8bit": (MOMENTS, ()),
    "adamw_bnb_8bit": (MOMENTS, ()),
    "paged_adamw_32bit": (MOMENTS, ()),
    "paged_adamw_8bit": (MOMENTS, ()),
    "lion_32bit": (MOMENTS[:2], ()),
    "lion_8bit": (MOMENTS[:2], ()),
    "paged_lion_32bit": (MOMENTS[:2], ()),
    "paged_lion_8bit": (MOMENTS[:2], ()),
}

SWITCH = (True, False)
NAMES = "a name or a list of names"
# setting that is a mapping -> its keys, each with its values, its range, or NAMES
KEYS: dict[str, dict[str, tuple | Range | str]] = {
    "activation_checkpointing_kwargs": {
        "use_reentrant": SWITCH,
        "preserve_rng_state": SWITCH,
        "determinism_check": ("default", "none"),
        "debug": SWITCH,
        "early_stop": SWITCH,
        "every_n_layers": COUNT,
        "offload": SWITCH,
    },
    "fsdp_config": {
        "version": Range(1, 2, is_whole=True),  # hugcoder.engines.world says why only 2
        "auto_wrap_policy": ("TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP"),
        "transformer_layer_cls_to_wrap": NAMES,  # engines.fsdp compares them with the model's
        "min_num_params": COUNT_OR_NONE,
        "reshard_after_forward": SWITCH,
        "state_dict_type": ("SHARDED_STATE_DICT", "FULL_STATE_DICT"),
        "activation_checkpointing": SWITCH,
        "cpu_offload": SWITCH,
        "cpu_ram_efficient_loading": SWITCH,
    },
    "lr_scheduler_kwargs": {},  # hugcoder.run.schedule asks the schedule itself
}
KEYS["gradient_checkpointing_kwargs"] = KEYS["activation_checkpointing_kwargs"]


def check_settings(arguments: "PretrainArguments") -> None:
    """Refuse what the Trainer would stumble over, or take and do nothing with."""
    rank = _launched_local_rank()
    for name, (value, reason) in FIXED.items():
        _check_fixed(name, getattr(arguments, name), value, reason)
    check_ranges(arguments, RANGES)
    check_steps_or_share(arguments, "logging_steps", "eval_steps", "save_steps")
    for name, (allowed, more) in CHOICES.items():
        _check_choice(arguments, name, allowed, more)
    for name, keys in KEYS.items():
        _check_mapping(arguments, name, keys)
    _check_names(arguments)
    _check_optimizer(arguments)
    check_schedule(arguments)
    _settle_recomputing(arguments)
    _check_dependents(arguments)
    check_trackers(arguments)
    _check_devices(arguments, rank)


def _check_fixed(name: str, found: Any, value: Any, reason: str) -> None:
    nothing = (None, "", [])  # what the command line makes of a setting that is not given
    is_same = found == value or (found in nothing and value in nothing)
    if is_same or (value == "no" and found is False):
        return
    only = "leave it out" if value in nothing else f"only {value}"
    raise Refusal(f"{name} {_plain(found)} is not possible here, {only}: {reason}.")


def _plain(value: Any) -> Any:
    """A value as the user wrote it."""
    if isinstance(value, list):
        return " ".join(str(_plain(item)) for item in value)
    return value.value if isinstance(value, Enum) else value


def _settle_recomputing(arguments: "PretrainArguments") -> None:
    """Whether activations are recomputed, by either name of the setting, under the newer one.

    Raises: Refusal when the two contradict each other.
    """
    new, old = arguments.activation_checkpointing, arguments.gradient_checkpointing
    if None not in (new, old) and bool(new) != bool(old):
        raise Refusal(
            f"activation_checkpointing {new} and gradient_checkpointing {old}, its older name, "
            "contradict each other; give the first alone."
        )
    arguments.activation_checkpointing, arguments.gradient_checkpointing = bool(new or old), None


def _check_choice(
    arguments: "PretrainArguments", name: str, allowed: tuple[str, ...], more: str = ""
) -> None:
    value = _plain(getattr(arguments, name))
    if value not in (None, *allowed):
        raise Refusal(f"{name} {value} is not possible here, only {', '.join(allowed)}{more}.")


def _check_mapping(
    arguments: "PretrainArguments", name: str, keys: dict[str, tuple | Range | str]
) -> None:
    """Turn a setting that is JSON into a mapping; refuse what is none, or holds what cannot be."""
    value = getattr(arguments, name)
    if isinstance(value, str):
        value = _read_mapping(name, value)
        setattr(arguments, name, value)
    for key, item in (value or {}).items():
        if isinstance(item, float) and not math.isfinite(item):
            raise Refusal(f"{name} {value} holds what is no number; give finite numbers.")
        short = key.removeprefix("fsdp_")
        if keys and short not in keys:
            raise Refusal(f"{name} names {key}; there are {', '.join(sorted(keys))}.")
        if (allowed := keys.get(short)) is None:
            continue
        if not _fits(item, allowed):
            is_choice = isinstance(allowed, tuple)
            values = ", ".join(str(choice) for choice in allowed) if is_choice else allowed
            shown = repr(item) if isinstance(allowed, Range) else item  # "2" is no number
            raise Refusal(f"{name} says {key} {shown}; give {values}.")


def _fits(item: Any, allowed: tuple | Range | str) -> bool:
    if isinstance(allowed, Range):
        is_number = isinstance(item, int | float) and not isinstance(item, bool)
        return is_number and allowed.holds(item)
    if allowed == NAMES:
        return all(isinstance(name, str) for name in (item if isinstance(item, list) else [item]))
    return item in allowed


def _read_mapping(name: str, given: str) -> dict[str, Any]:
    is_file = name == "fsdp_config" and Path(given).is_file()
    try:
        value = json.loads(Path(given).read_text(encoding="utf-8") if is_file else given)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Refusal(
            f"{name} {given} is no mapping; give JSON such as '{{\"key\": 1}}', or lines below the "
            "name in a recipe."
        )
    return {key: _as_json(item) for key, item in value.items()}


def _as_json(item: Any) -> Any:
    """A value inside a mapping; transformers takes "false" for true."""
    return {"true": True, "false": False}.get(item, item) if isinstance(item, str) else item


def _check_names(arguments: "PretrainArguments") -> None:
    """Names of the schedule and the optimizer, which transformers turns into enumerations."""
    from transformers.trainer_utils import SchedulerType

    kinds = tuple(kind.value for kind in SchedulerType)
    _check_choice(arguments, "lr_scheduler_type", kinds)
    _check_choice(arguments, "optim", tuple(OPTIMIZERS))


def _check_optimizer(arguments: "PretrainArguments") -> None:
    """The package that an optimizer comes from, and the words it takes."""
    optim = _plain(arguments.optim)
    is_elsewhere = not optim.startswith(("adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop"))
    if is_elsewhere and not importlib.util.find_spec("bitsandbytes"):
        raise Refusal(
            f"optim {optim} needs bitsandbytes, which is not installed (requirements-gpu.txt); "
            "install it, or give --optim adamw_torch_fused."
        )
    if not arguments.optim_args:
        return
    names = OPTIMIZERS[optim][1]
    words = [word.partition("=") for word in arguments.optim_args.replace(" ", "").split(",")]
    if any(name not in names or not _is_optimizer_value(name, value) for name, _, value in words):
        takes = f"takes {', '.join(names)}, as in {names[0]}=0.9" if names else "takes none"
        raise Refusal(
            f"optim_args {arguments.optim_args} does not fit optim {optim}, which {takes}."
        )
    _build_optimizer(arguments, f"optim_args {arguments.optim_args} with optim {optim}")


def _is_optimizer_value(name: str, value: str) -> bool:
    """Whether transformers and torch would take it for what it says; NaN passes both."""
    if name in ("nesterov", "centered"):
        return value.lower() in ("true", "false")
    try:
        return NOT_NEGATIVE.holds(float(value))
    except ValueError:
        return False


def _build_optimizer(arguments: "PretrainArguments", what: str) -> None:
    """Build the optimizer for one weight, so that its own checks speak now."""
    from transformers import Trainer

    try:
        make, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
        make([torch.nn.Parameter(torch.zeros(1))], **settings)
    except (TypeError, ValueError) as error:
        raise Refusal(f"{what} is not possible: {error}.") from None


# ---- settings that another one switches off ------------------------------------------------------


def _check_dependents(arguments: "PretrainArguments") -> None:
    """Refuse a setting that differs from its default where another leaves it without effect."""
    defaults = {name: field.default for name, field in arguments.__dataclass_fields__.items()}
    for name, reason in _without_effect(arguments):
        value = _plain(getattr(arguments, name))
        if value != _plain(defaults[name]):
            default = _plain(defaults[name])
            is_sayable = default not in (None, "")  # in words, where a recipe gives the value
            way = f"leave it out, or give its default {default}" if is_sayable else "leave it out"
            raise Refusal(f"{name} {value} has no effect here: {reason}; {way}.")


def _without_effect(arguments: "PretrainArguments") -> list[tuple[str, str]]:
    """Settings that would be without effect, each with the reason."""
    compiles = "torch_compile is not true"
    found = _without_effect_in_the_schedule(arguments)
    if arguments.use_muon:
        found += [("optim", "use_muon is true, which has AdamW beside it")]
        found += [("weight_decay", "with use_muon only matrices decay, by muon_weight_decay")]
    else:
        optim = _plain(arguments.optim)
        unread = [name for name in MOMENTS if name not in OPTIMIZERS[optim][0]]
        found += [(name, f"optim {optim} does not read it") for name in unread]
    if not arguments.torch_compile:
        found += [("torch_compile_mode", compiles), ("torch_compile_backend", compiles)]
    elif arguments.torch_compile_backend not in (None, "inductor"):
        found += [("torch_compile_mode", f"{arguments.torch_compile_backend} has no modes")]
    if not arguments.activation_checkpointing:
        for name in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
            found += [(name, "activation_checkpointing is not true")]
    if not arguments.fsdp:
        found += [("fsdp_config", "fsdp is not true")]
    if launched_processes() == 1:
        found += [("ddp_backend", "this is one process, which talks to no other")]
    if not arguments.dataloader_num_workers:
        for name in ("dataloader_prefetch_factor", "dataloader_multiprocessing_context"):
            found += [(name, "dataloader_num_workers is 0")]
    if _plain(arguments.eval_strategy) == "no":
        found += [("eval_on_start", "eval_strategy is no")]
    if not {"trackio", "all"} & set(trackers_of(arguments)):
        of_trackio = ("project", "trackio_space_id", "trackio_bucket_id", "hub_private_repo")
        for name in (*of_trackio, "trackio_static_space_id"):
            found += [(name, "report_to does not name trackio")]
    return found


def _without_effect_in_the_schedule(arguments: "PretrainArguments") -> list[tuple[str, str]]:
    schedule, given = _plain(arguments.lr_scheduler_type), arguments.lr_scheduler_kwargs or {}
    is_decaying = schedule == "warmup_stable_decay"
    reason = f"lr_scheduler_type is {schedule}" + (f" with {given}" if given else "")
    found = []
    if not is_decaying or "num_decay_steps" in given:
        found += [("decay_ratio", reason)]
    if not (is_decaying or schedule == "cosine") or {"min_lr_ratio", "min_lr_rate"} & set(given):
        found += [("min_lr_ratio", reason)]
    if schedule == "constant" and arguments.warmup_steps:
        found += [("warmup_steps", f"{reason}, not constant_with_warmup")]
    return found


# ---- devices -------------------------------------------------------------------------------------


def _check_devices(arguments: "PretrainArguments", rank: int) -> None:
    """What needs a GPU or the launcher's word."""
    has_gpu = torch.accelerator.is_available() and not arguments.use_cpu
    if arguments.tf32 and not has_gpu:
        raise Refusal("tf32 true needs a GPU and there is none; leave it out, or give false.")
    if arguments.local_rank not in (-1, rank):
        raise Refusal(
            f"local_rank {arguments.local_rank} is not what the launcher says (LOCAL_RANK {rank}); "
            "start with accelerate launch or torchrun, which say it themselves."
        )


def _launched_local_rank() -> int:
    """LOCAL_RANK; -1 without. Raises: Refusal for words of a launcher that is not there."""
    names = [name for name in (*WORLD_SIZES, *RANKS, "LOCAL_RANK") if name in os.environ]
    numbers = {name: number(name) for name in names}
    rank = numbers.get("LOCAL_RANK", -1)
    if (rank >= 0 or launched_processes() > 1) and "MASTER_ADDR" not in os.environ:
        raise Refusal(
            f"{', '.join(names)} in the environment, as a launcher sets it, but not MASTER_ADDR; "
            f"for one process `unset {' '.join(names)}`, for several start with torchrun or "
            "accelerate launch."
        )
    return rank
