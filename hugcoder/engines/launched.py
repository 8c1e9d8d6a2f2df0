"""What the launcher said: how many processes it started, and which engine it asked for.

Reads the environment and nothing else, so that it may be asked before accelerate makes its state.
Whether it came to be so is `hugcoder.engines.world`'s concern.
"""

import os
import re

from hugcoder.refusal import Refusal

# torchrun's and accelerate's word, then those of MPI launchers, in the order of accelerate
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
ON = {"1", "on", "t", "true", "y", "yes"}  # what accelerate or transformers takes for on


def launched_processes() -> int:
    """Processes that the launcher started; 1 where it says nothing. Raises: see `number`."""
    return next((number(name) for name in WORLD_SIZES if name in os.environ), 1)


def launched_rank() -> int:
    """Which of them this is; 0 where the launcher says nothing. Raises: see `number`."""
    return next((number(name) for name in RANKS if name in os.environ), 0)


def is_launched() -> bool:
    """Whether a launcher started this process, be it as the only one."""
    return launched_processes() > 1 or os.environ.get("LOCAL_RANK", "-1") != "-1"


def number(name: str) -> int:
    """A variable of a launcher. Raises: Refusal when it holds no number."""
    if not re.fullmatch(r"-?\d{1,9}", os.environ[name]):
        raise Refusal(
            f"{name} in the environment is {os.environ[name]!r}, no number; unset it, or start "
            "with torchrun or accelerate launch, which set it."
        )
    return int(os.environ[name])


def launched_with(engine: str) -> bool:
    """Whether accelerate was told to use FSDP, DEEPSPEED or a PARALLELISM_CONFIG."""
    return os.environ.get(f"ACCELERATE_USE_{engine}", "").lower() in ON
