"""What the launcher said: how many processes it started, and which engine it asked for.

Reads the environment and nothing else, so that it may be asked before accelerate makes its state.
Whether it came to be so is `hugcoder.world`'s concern.
"""

import os

# torchrun's and accelerate's word, then those of MPI launchers, in the order of accelerate
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
ON = {"1", "on", "t", "true", "y", "yes"}  # what accelerate or transformers takes for on


def launched_processes() -> int:
    """Processes that the launcher started; 1 where it says nothing."""
    said = [os.environ[name] for name in WORLD_SIZES if name in os.environ]
    return int(said[0]) if said else 1


def launched_rank() -> int:
    """Which of them this is; 0 where the launcher says nothing."""
    said = [os.environ[name] for name in RANKS if name in os.environ]
    return int(said[0]) if said else 0


def uses(engine: str) -> bool:
    """Whether accelerate was told to use FSDP, DEEPSPEED or a PARALLELISM_CONFIG."""
    return os.environ.get(f"ACCELERATE_USE_{engine}", "").lower() in ON
