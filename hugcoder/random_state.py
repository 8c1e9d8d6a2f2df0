"""Random number generators of a resumed run: each rank's own, or a new start at another world size.

The data order never depends on them; only what draws random numbers in training does (dropout). The
Trainer restores them rank by rank, and goes on in silence when a rank's file is not there.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PretrainedConfig, set_seed

from hugcoder.checkpoint import manifest_of
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

HEADS_NOT_TRAINED = ("summary_", "classifier_")  # dropouts of classifiers, in GPT-2's config


def fits(checkpoint: Path, world_size: int) -> bool:
    """Whether the checkpoint holds generators for just this many ranks."""
    return manifest_of(checkpoint)["world_size"] == world_size


def check_random_state(checkpoint: Path, config: PretrainedConfig, world_size: int) -> None:
    """Raises: Refusal when the model draws random numbers and the world has another size."""
    if fits(checkpoint, world_size):
        return
    drawing = dropouts(config)
    if drawing:
        name, value = next(iter(drawing.items()))
        then = manifest_of(checkpoint)["world_size"]
        raise Refusal(
            f"{checkpoint} was written by {then} processes and these are {world_size}, but the "
            f"model's {name} is {value}: each process draws its own random numbers, which cannot "
            f"be gone on with. Start {then} processes, or train without dropout."
        )


def dropouts(config: PretrainedConfig) -> dict[str, Any]:
    """Settings of a config that make a model draw random numbers in training."""
    return {
        name: value
        for name, value in config.to_dict().items()
        if "drop" in name
        and not name.startswith(HEADS_NOT_TRAINED)
        and isinstance(value, int | float)
        and value > 0
    }


def restart(checkpoint: Path, seed: int, rank: int, world_size: int) -> None:
    """Seed the generators of one rank from the run's seed, the step and the rank."""
    manifest = manifest_of(checkpoint)
    step = manifest["step"]
    set_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))
    if rank == 0:
        logger.info(
            "random numbers start anew at step %s: written by %s processes, these are %s (nothing "
            "in the model draws any)",
            f"{step:,}",
            manifest["world_size"],
            world_size,
        )
