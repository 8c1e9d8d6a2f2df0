"""The world is what was asked for: as many processes, and the engine, that the launch named.

accelerate falls back in silence, to ranks that do not synchronise their gradients or to plain data
parallelism where sharding was asked for; a run must not start in such a world.
"""

import os

from accelerate import Accelerator
from accelerate.utils import DistributedType

from hugcoder.arguments import PretrainArguments
from hugcoder.refusal import Refusal


def check_world(accelerator: Accelerator, arguments: PretrainArguments) -> None:
    """Raises: Refusal when the processes or the engine are not those of the launch."""
    launched, joined = int(os.environ.get("WORLD_SIZE", "1")), accelerator.num_processes
    engine = accelerator.distributed_type
    if launched != joined or (launched > 1 and engine == DistributedType.NO):
        raise Refusal(
            f"{launched} processes were launched, but {joined} train together (engine "
            f"{engine.value}): their gradients would not be synchronised. Give --use_cpu true on a "
            "machine without GPUs, or one process a GPU."
        )
    wants_fsdp = bool(arguments.fsdp) or os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if wants_fsdp and engine != DistributedType.FSDP:
        raise Refusal(
            f"fsdp was asked for, but the engine is {engine.value}: nothing would be sharded. FSDP "
            "needs GPUs; without them take configs/ddp.yaml or configs/cpu.yaml."
        )
