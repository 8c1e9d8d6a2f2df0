"""Handles random number generators of a resumed run, and of passes that repeat the same draws.

The data order never depends on them. Only draws in training do: dropout, noise of routers and of
NEFTune. The Trainer restores them rank by rank, and continues without a warning when a rank's file
is missing.
"""

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig, set_seed

from hugcoder.model.manifest import manifest_of
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

HEADS_NOT_TRAINED = ("summary_", "classifier_")  # classifiers' dropouts, in GPT-2's config


def fits(checkpoint: Path, world_size: int) -> bool:
    """Tell whether the checkpoint holds generators for exactly this many ranks."""
    return manifest_of(checkpoint)["world_size"] == world_size


def check_random_state(
    checkpoint: Path,
    config: PretrainedConfig,
    world_size: int,
    neftune_noise_alpha: float | None = None,
) -> None:
    """Check the number of ranks, if training draws random numbers.

    Raises: Refusal when it draws some and the checkpoint has another number of ranks.
    """
    if fits(checkpoint, world_size):
        return
    drawing = dropouts(config)
    if neftune_noise_alpha:
        drawing["neftune_noise_alpha"] = neftune_noise_alpha
    if drawing:
        name, value = next(iter(drawing.items()))
        then = manifest_of(checkpoint)["world_size"]
        raise Refusal(
            f"{checkpoint} was written by {then} processes and these are {world_size}, but "
            f"{name} is {value}: each process draws its own random numbers, which another number "
            f"of processes cannot continue. Start {then} processes, or train without {name}."
        )


def dropouts(config: PretrainedConfig) -> dict[str, Any]:
    """Find settings in a config and its sections that make a model draw in training."""
    return _drawing(config.to_dict())


def _drawing(settings: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= _drawing(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_of_training = not str(name).startswith(HEADS_NOT_TRAINED)
        is_noise = "drop" in str(name) or "jitter" in str(name)
        if is_noise and is_of_training and is_number and value > 0:
            found[name] = value
    return found


def restart(checkpoint: Path, seed: int, rank: int, world_size: int) -> None:
    """Seed the generators of one rank from the run's seed, the step and the rank."""
    manifest = manifest_of(checkpoint)
    step = manifest["step"]
    set_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))
    if rank == 0:
        logger.info(
            "random numbers start anew at step %s: %s processes wrote the checkpoint, and these "
            "are %s (the model draws no random numbers)",
            f"{step:,}",
            manifest["world_size"],
            world_size,
        )


@contextmanager
def repeated_draws() -> Iterator[Callable[[], None]]:
    """Yield a function that resets all generators to their present state; call it at the end."""
    generators: list[tuple[Callable[[], Any], Callable[[Any], None]]] = [
        (random.getstate, random.setstate),
        (np.random.get_state, np.random.set_state),
        (torch.get_rng_state, torch.set_rng_state),
    ]
    if torch.accelerator.is_available():
        device = torch.get_device_module()
        generators.append((device.get_rng_state, device.set_rng_state))
    states = [get() for get, _ in generators]

    def repeat() -> None:
        for (_, put), state in zip(generators, states, strict=True):
            put(state)

    try:
        yield repeat
    finally:
        repeat()
