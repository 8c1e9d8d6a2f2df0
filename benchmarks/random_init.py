"""What random initial weights cost a rank in seconds and memory: made as shards, or built whole.

    python benchmarks/random_init.py --config_file configs/models/1b.json
    python benchmarks/random_init.py --config_file configs/models/1b.json --whole
    python benchmarks/random_init.py --config_file configs/models/7b.json --make_only

The first two start train.py on two ranks under FSDP2 up to the end of step 1, with one row of 128
tokens a rank and SGD, whose states take no memory; --whole gives accelerate a model that each rank
has in full. --make_only builds a model on the meta device and makes its values block by block in
one process with one thread, keeping none. Prints a line of JSON a rank: seconds since the launch,
and the peaks of resident memory until the weights are there and from then to the end of step 1.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

VOCABULARY = 49152  # of configs/recipes/tokenizer.yaml; the others take the token store's
WORDS = {
    "max_seq_length": 128,
    "max_steps": 1,
    "per_device_train_batch_size": 1,
    "held_out_rows": 0,
    "dataloader_num_workers": 0,
    "save_strategy": "no",
    "optim": "sgd",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config_file", required=True)
    parser.add_argument("--token_store", default="data/quickstart-tokens")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--whole", action="store_true", help="build the model whole on each rank")
    parser.add_argument("--make_only", action="store_true", help="make the values, keep none")
    args = parser.parse_args()
    if "BENCHMARK_BEGAN" in os.environ:
        run_rank(args)
    elif args.make_only:
        make_values(args.config_file)
    else:
        launch(args)


def launch(args: argparse.Namespace) -> None:
    """Start this program again on every rank."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    launcher += ["--config_file", str(ROOT / "configs" / "fsdp.yaml")]
    launcher += ["--num_processes", str(args.processes), "--main_process_port", "0"]
    environment = os.environ | {"BENCHMARK_BEGAN": str(time.time())}
    subprocess.run([*launcher, *sys.argv], env=environment, check=True)


def run_rank(args: argparse.Namespace) -> None:
    """Run train.py up to the end of step 1 and print what it took."""
    import train
    from hugcoder.model import build, random_init
    from hugcoder.pretraining import trainer

    if args.whole:

        def build_whole(*words, on_meta: bool, **settings):
            return random_init.build_random(*words, on_meta=False, **settings)

        build.build_random = build_whole
    trainer.PretrainTrainer = measured(trainer.PretrainTrainer, args)
    with tempfile.TemporaryDirectory() as folder:
        words = WORDS | {"config_file": args.config_file, "token_store": args.token_store}
        words["output_dir"] = f"{folder}/run"
        train.main([part for name, value in words.items() for part in (f"--{name}", str(value))])


def measured(trainer: type, args: argparse.Namespace) -> type:
    """A trainer that measures itself and ends the process after its first step."""
    import torch
    from transformers import TrainerCallback

    taken: dict[str, float | str | int] = {"route": "whole" if args.whole else "meta"}

    class AfterStepOne(TrainerCallback):
        def on_step_end(self, arguments, state, control, **kwargs):
            taken["step_1_seconds"], taken["step_1_peak_MiB"] = since_launch(), peak()
            sys.stdout.write(json.dumps({"rank": int(os.environ["RANK"])} | taken) + "\n")
            sys.stdout.flush()
            torch.distributed.barrier()
            os._exit(0)  # no export

    class MeasuredTrainer(trainer):
        def _prepare_for_training(self, *words):
            prepared = super()._prepare_for_training(*words)
            taken["weights_seconds"], taken["weights_peak_MiB"] = since_launch(), peak()
            forget_peak()
            self.add_callback(AfterStepOne())
            return prepared

    return MeasuredTrainer


def make_values(config_file: str) -> None:
    began = time.perf_counter()
    import torch

    from hugcoder.model.build import read_config
    from hugcoder.model.random_init import build_random

    torch.set_num_threads(1)
    imported, before = time.perf_counter(), peak()
    config = read_config(config_file)
    config.vocab_size = VOCABULARY
    model = build_random(config, "sdpa", seed=1, residual_init="scaled", on_meta=True)
    built, numbers = time.perf_counter(), []
    model.random_weights.make(lambda name, tensor: numbers.append(tensor.numel()))
    report = {
        "values": sum(numbers),
        "largest": max(numbers),
        "import_seconds": round(imported - began, 1),
        "build_on_meta_seconds": round(built - imported, 1),
        "make_seconds": round(time.perf_counter() - built, 1),
        "peak_MiB_after_import": before,
        "peak_MiB": peak(),
    }
    sys.stdout.write(json.dumps(report) + "\n")


def since_launch() -> float:
    return round(time.time() - float(os.environ["BENCHMARK_BEGAN"]), 1)


def peak() -> int:
    """Most resident memory of this process since the last `forget_peak`, in MiB."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) // 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
