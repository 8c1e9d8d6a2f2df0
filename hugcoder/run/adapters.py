"""Saves LoRA and other adapters of peft: only the adapters, without a config.json.

With a config.json, other programs would take the folder for a whole model.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from hugcoder.model import manifest
from hugcoder.refusal import Refusal

WEIGHTS = "adapter_model.safetensors"  # peft's name


def are_in(model: nn.Module) -> bool:
    """Tell whether a model is peft's wrapper around a base model that stays unchanged."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return what peft saves of a model; accelerate looks for it in sharded checkpoints."""
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model)


def complete(
    folder: Path, expected: dict[str, torch.Size], facts: dict[str, Any], files: dict[str, Any]
) -> None:
    """Write the manifest of final adapters. Raises: Refusal when some are missing."""
    with safe_open(folder / WEIGHTS, "pt") as file:
        found = {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    missing = sorted(name for name, shape in expected.items() if found.get(name) != shape)
    if missing:
        raise Refusal(
            f"{folder / WEIGHTS} does not hold all adapters: {len(missing)} of {len(expected)} are "
            f"missing or have another shape, {missing[0]} first; take those of the last checkpoint."
        )
    manifest.complete(folder, facts | {"kind": manifest.MODEL}, files)
