"""Programs that the tests of worlds and engines run in ranks."""

import gc
import json
import os
import sys


def show_fsdp_policies(argv: list[str]) -> None:
    """Run train.py, then print the data types and the sharding of every FSDP module."""
    from torch.distributed.fsdp import FSDPModule

    import train

    train.main(argv)
    shown = set()
    for module in gc.get_objects():
        if isinstance(module, FSDPModule):
            policy = module._get_fsdp_state()._mp_policy
            masters = {str(parameter.dtype) for parameter in module.parameters()}
            shown.add((str(policy.param_dtype), str(policy.reduce_dtype), *masters))
    sys.stdout.write(f"FSDP modules: {json.dumps(sorted(shown))}\n")


def check_a_whole_model(argv: list[str]) -> None:
    """Check the sharding of a model that nobody sharded."""
    import torch
    from accelerate import Accelerator

    from hugcoder.cpu_engines import prepare_cpu_engines
    from hugcoder.world import check_sharding

    prepare_cpu_engines()
    is_fsdp = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    check_sharding(Accelerator(cpu=not is_fsdp), torch.nn.Linear(3, 5))
