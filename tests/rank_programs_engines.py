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


def show_ddp_search(argv: list[str]) -> None:
    """Run train.py, and print whether DDP searches each step for parameters without a gradient."""
    from torch.nn.parallel import DistributedDataParallel

    import train

    wrap = DistributedDataParallel.__init__

    def wrap_and_show(self, *args, **kwargs):
        wrap(self, *args, **kwargs)
        sys.stdout.write(f"DDP searches: {self.find_unused_parameters}\n")

    DistributedDataParallel.__init__ = wrap_and_show
    train.main(argv)


def count_layers(argv: list[str]) -> None:
    """Run train.py, and print how often the inside of a layer was computed."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

    import train

    forward, calls = Qwen3MLP.forward, []
    Qwen3MLP.forward = lambda *args: calls.append(1) or forward(*args)
    train.main(argv)
    sys.stdout.write(f"LAYERS {len(calls)} computed\n")


def show_norms(argv: list[str]) -> None:
    """Run train.py, and print each norm that is judged beside the squares that a rank holds."""
    import numpy as np

    import train
    from hugcoder.pretraining.trainer import PretrainTrainer
    from hugcoder.run.gradient_guard import GradientGuard

    prepare, rejects, trainers = PretrainTrainer._prepare_for_training, GradientGuard.rejects, []

    def prepare_and_keep(self, *args):
        trainers.append(self)
        return prepare(self, *args)

    def held() -> list:
        if trainers[0].is_deepspeed_enabled:
            groups = trainers[0].deepspeed.optimizer.averaged_gradients.values()
            return [gradient for group in groups for gradient in group]
        gradients = [parameter.grad for parameter in trainers[0].model_wrapped.parameters()]
        return [getattr(gradient, "_local_tensor", gradient) for gradient in gradients]

    def judge_and_show(self, norm):
        squares = sum(float((g.numpy().astype(np.longdouble) ** 2).sum()) for g in held())
        sys.stdout.write(f"NORM {json.dumps({'judged': float(norm), 'squares': squares})}\n")
        return rejects(self, norm)

    PretrainTrainer._prepare_for_training = prepare_and_keep
    GradientGuard.rejects = judge_and_show
    train.main(argv)


def train_unproved(argv: list[str]) -> None:
    """Run train.py without the isolation self-test."""
    import train
    from hugcoder.pretraining import isolation_proof

    isolation_proof.prove_isolation = lambda *_: "not proved"
    train.main(argv)


def check_a_whole_model(argv: list[str]) -> None:
    """Check the sharding of a model that nobody sharded."""
    import torch
    from accelerate import Accelerator

    from hugcoder.engines.cpu_engines import prepare_cpu_engines
    from hugcoder.engines.world import check_sharding

    prepare_cpu_engines()
    is_fsdp = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    accelerator = Accelerator(cpu=not is_fsdp)
    accelerator.wait_for_everyone()  # or one is refused and leaves while the other still joins
    check_sharding(accelerator, torch.nn.Linear(3, 5))


def show_signals(argv: list[str]) -> None:
    """Print what is done at Ctrl-C, and when the terminal is closed."""
    import signal

    sys.stdout.write(f"{[signal.getsignal(n) for n in (signal.SIGINT, signal.SIGHUP)]}\n")


def show_batch_under_mpi(argv: list[str]) -> None:
    """Print how a global batch of 8 rows is shared in the environment that mpirun makes."""
    from hugcoder.engines.collectives import leave_together
    from hugcoder.pretraining.arguments import PretrainArguments

    ours = {"WORLD_SIZE": "SIZE", "RANK": "RANK", "LOCAL_RANK": "LOCAL_RANK"}
    for name, of_mpi in (ours | {"LOCAL_WORLD_SIZE": "LOCAL_SIZE"}).items():
        os.environ[f"OMPI_COMM_WORLD_{of_mpi}"] = os.environ.pop(name)
    made = PretrainArguments(
        output_dir="run", global_batch_size=8, per_device_train_batch_size=1, use_cpu=True
    )
    made.join()
    sys.stdout.write(
        f"{made.world_size} processes x {made.train_batch_size} rows x "
        f"{made.gradient_accumulation_steps} = {made.rows_per_step} rows\n"
    )
    leave_together()
