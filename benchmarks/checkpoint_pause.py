"""How long training stands still for an FSDP2 checkpoint, and what writing behind it costs.

    python benchmarks/checkpoint_pause.py --token_store data/quickstart-tokens --folder /tmp/pause

Two processes on the CPU train the same model three times and save every few steps:
accelerate = transformers and accelerate write, training waits; at once = our writing with
--async_save false; behind = a thread writes while training goes on (the default). Prints, for each,
the median step with nothing else going on, the pause of each save (the first allocates the copies),
and what the steps during the writing took longer. All three end with the hashed manifest. Then: how
fast a checkpoint is verified.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

MODES = ("accelerate", "at once", "behind")
WARM_STEPS = 3  # not counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--token_store", default="data/quickstart-tokens")
    parser.add_argument("--config_file", default="configs/models/130m.json")
    parser.add_argument("--folder", type=Path, required=True, help="On the disk to be measured.")
    parser.add_argument("--save_steps", type=int, default=8)
    parser.add_argument("--num_saves", type=int, default=4)
    parser.add_argument("--mode", choices=MODES, help="Set by the program for its own workers.")
    args = parser.parse_args()
    if args.mode:
        train(args)
        return
    args.folder.mkdir(parents=True)
    for mode in MODES:
        launch = ["-m", "accelerate.commands.launch", "--config_file", "configs/fsdp.yaml"]
        words = ["--num_processes", "2", __file__, *sys.argv[1:], "--mode", mode]
        subprocess.run([sys.executable, *launch, *words], cwd=ROOT, check=True)
        report(mode, json.loads((args.folder / f"{mode}.json").read_text()))
    verify(args.folder / "behind")


def train(args: argparse.Namespace) -> None:
    """One run of one mode, in each rank; rank 0 writes what it measured."""
    from hugcoder.engines.cpu_engines import prepare_cpu_engines

    prepare_cpu_engines()
    from prepared import prepared, trainer_of
    from transformers import TrainerCallback

    model, training, rows = prepared(
        args.config_file,
        args.token_store,
        128,
        output_dir=str(args.folder / args.mode),
        max_steps=args.save_steps * args.num_saves + args.save_steps // 2,
        per_device_train_batch_size=1,
        save_steps=args.save_steps,
        save_total_limit=2,
        async_save=args.mode == "behind",
        logging_steps=1000,
    )
    trainer = trainer_of(model, training, rows)
    if args.mode == "accelerate":
        trainer.checkpoints.stage = lambda folder: False
    steps, pauses = [], []

    class StepClock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.began, self.is_writing = time.perf_counter(), bool(trainer.checkpoints.pending)

        def on_step_end(self, *_, **__):
            steps.append([time.perf_counter() - self.began, self.is_writing])

    save = trainer._save_checkpoint

    def save_and_time(*given):
        began = time.perf_counter()
        save(*given)
        pauses.append(time.perf_counter() - began)

    trainer._save_checkpoint = save_and_time
    trainer.add_callback(StepClock())
    trainer.train()
    if training.should_save:
        found = {"steps": steps, "pauses": pauses[: args.num_saves], "parameters": size_of(model)}
        (args.folder / f"{args.mode}.json").write_text(json.dumps(found))


def size_of(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def report(mode: str, found: dict) -> None:
    counted = found["steps"][WARM_STEPS:]
    plain = [seconds for seconds, is_writing in counted if not is_writing]
    behind = [seconds for seconds, is_writing in counted if is_writing]
    usual, saves = statistics.median(plain), len(found["pauses"])
    extra = sum(seconds - usual for seconds in behind) / saves
    pauses = ", ".join(f"{pause:.2f}" for pause in found["pauses"])
    print(
        f"{mode}: {found['parameters'] / 1e6:.0f}M parameters, step {usual:.2f} s "
        f"({min(plain):.2f} to {max(plain):.2f}); pause a save {pauses} s; "
        f"{len(behind) / saves:.1f} steps a save during writing, together {extra:.2f} s longer; "
        f"cost of a save {statistics.mean(found['pauses']) + extra:.2f} s"
    )


def verify(run: Path) -> None:
    from hugcoder.model import manifest

    folder = manifest.checkpoints_in(run)[-1]
    files = [path for path in folder.rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    began = time.perf_counter()
    damage = manifest.damage(folder)
    seconds = time.perf_counter() - began
    print(f"verified {total / 1e9:.2f} GB in {seconds:.2f} s ({total / 1e9 / seconds:.2f} GB/s)")
    assert not damage, damage


if __name__ == "__main__":
    main()
