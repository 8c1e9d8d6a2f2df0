"""Checks the Trainer's settings that are mappings: their keys, and the values of each."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hugcoder.ranges import COUNT, COUNT_OR_NONE, Range
from hugcoder.refusal import Refusal

if TYPE_CHECKING:
    from transformers import TrainingArguments

SWITCH = (True, False)
NAMES = "a name or a list of names"
# setting -> its keys, each with its values, its range, or NAMES
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


def check_mapping(arguments: "TrainingArguments", name: str) -> None:
    """Turn a setting that is JSON into a mapping. Raises: Refusal for a wrong key or value."""
    keys, value = KEYS[name], getattr(arguments, name)
    if isinstance(value, str):
        value = _read_mapping(name, value)
        setattr(arguments, name, value)
    for key, item in (value or {}).items():
        if isinstance(item, float) and not math.isfinite(item):
            raise Refusal(f"{name} {value} holds a number that is not finite; give finite numbers.")
        short = key.removeprefix("fsdp_")
        if keys and short not in keys:
            raise Refusal(f"{name} names {key}; there are {', '.join(sorted(keys))}.")
        if (allowed := keys.get(short)) is None:
            continue
        if not _fits(item, allowed):
            is_choice = isinstance(allowed, tuple)
            values = ", ".join(str(choice) for choice in allowed) if is_choice else allowed
            shown = repr(item) if isinstance(allowed, Range) else item  # "2" is not a number
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
            f"{name} {given} is not a mapping; give JSON such as '{{\"key\": 1}}', or lines below "
            "the name in a recipe."
        )
    return {key: _as_json(item) for key, item in value.items()}


def _as_json(item: Any) -> Any:
    """Turn "true" and "false" into booleans; transformers would take "false" for true."""
    return {"true": True, "false": False}.get(item, item) if isinstance(item, str) else item
