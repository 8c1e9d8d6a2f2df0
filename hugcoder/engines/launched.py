"""Reads what the launcher said: how many processes it started, and which engine it asked for.

Reads only the environment, so it works before accelerate makes its state. `hugcoder.engines.world`
checks whether accelerate has followed the launcher.
"""

import os
import re

from hugcoder.refusal import Refusal

# the variable of torchrun and accelerate, then those of MPI launchers, in accelerate's order
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
ON = {"1", "on", "t", "true", "y", "yes"}  # accelerate or transformers reads these as on


def launched_processes() -> int:
    """Return how many processes the launcher started; 1 without one. Raises: see `number`."""
    return next((number(name) for name in WORLD_SIZES if name in os.environ), 1)


def launched_rank() -> int:
    """Return the rank of this process; 0 without a launcher. Raises: see `number`."""
    return next((number(name) for name in RANKS if name in os.environ), 0)


def is_launched() -> bool:
    """Tell whether a launcher started this process, even if it is the only one."""
    return launched_processes() > 1 or os.environ.get("LOCAL_RANK", "-1") != "-1"


def number(name: str) -> int:
    """Read a launcher's variable. Raises: Refusal when it is not a number."""
    if not re.fullmatch(r"-?\d{1,9}", os.environ[name]):
        raise Refusal(
            f"{name} in the environment is {os.environ[name]!r}, not a number; unset it, or start "
            "with torchrun or accelerate launch, which set it."
        )
    return int(os.environ[name])


def launched_with(engine: str) -> bool:
    """Tell whether accelerate was asked to use FSDP, DEEPSPEED or a PARALLELISM_CONFIG."""
    return os.environ.get(f"ACCELERATE_USE_{engine}", "").lower() in ON
