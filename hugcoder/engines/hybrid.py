"""Sets up hybrid sharding: copies of a model, each sharded over some of the processes.

configs/hsdp.yaml leaves the two numbers open (-1). This file writes them into the environment,
where accelerate's launcher puts the values of its YAML and accelerate reads them.
"""

import os

from hugcoder.engines.launched import launched_processes, launched_with
from hugcoder.refusal import Refusal

COPIES, SHARDS = "PARALLELISM_CONFIG_DP_REPLICATE_SIZE", "PARALLELISM_CONFIG_DP_SHARD_SIZE"
USED = "ACCELERATE_USE_PARALLELISM_CONFIG"
OTHERS = tuple(f"PARALLELISM_CONFIG_{name}_SIZE" for name in ("TP", "CP", "SP"))
OPEN = -1


def fill_in_copies() -> None:
    """Fill in the copies and shards that the YAML leaves open, before accelerate reads them.

    One copy becomes plain FSDP2. Does nothing when no parallelism is asked for.
    Raises: Refusal when copies x shards is not the number of processes.
    """
    if not launched_with("PARALLELISM_CONFIG") or any(
        int(os.environ.get(n, "1")) > 1 for n in OTHERS
    ):
        return  # `world.check_launch` refuses other kinds of parallelism
    copies, shards = (int(os.environ.get(name, "1")) for name in (COPIES, SHARDS))
    copies, shards = sizes(copies, shards, launched_processes(), machines())
    os.environ[COPIES], os.environ[SHARDS] = str(copies), str(shards)
    if copies == 1:
        os.environ[USED] = "false"


def machines() -> int:
    """Return the number of machines, as torchrun counts them."""
    return int(os.environ.get("GROUP_WORLD_SIZE", "1"))


def sizes(copies: int, shards: int, processes: int, num_machines: int = 1) -> tuple[int, int]:
    """Return the number of copies and of shards in each; choose those that are OPEN.

    If both are open, each machine is one copy. A single machine holds two copies if each has at
    least two processes, else one copy.
    """
    given = {"dp_replicate_size": copies, "dp_shard_size": shards}
    if copies == OPEN and shards == OPEN:
        is_even = num_machines == 1 and processes % 2 == 0 and processes > 2
        copies = 2 if is_even else num_machines
    if copies == OPEN:
        copies = processes // shards if shards > 0 else 0
    if shards == OPEN:
        shards = processes // copies if copies > 0 else 0
    if copies < 1 or shards < 1 or copies * shards != processes or (shards == 1 < copies):
        values = ", ".join(f"parallelism_config_{name} {value}" for name, value in given.items())
        raise Refusal(
            f"{values} do not make up {processes} process(es): copies x shards must be that "
            f"number, with at least 2 shards in a copy. Give {OPEN} for both, which fits any "
            "number (configs/hsdp.yaml), or take configs/ddp.yaml for copies alone."
        )
    return copies, shards
