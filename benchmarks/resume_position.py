"""How long resuming takes at step 10 and at step 1,000,000: the position in the data is a number.

    python benchmarks/resume_position.py --token_store data/quickstart-tokens

A run of ten steps leaves a checkpoint. A copy of it is then called step 1,000,000, so that both
starts load the same weights and differ only in the position. Times are from the start of the
process to the first step it has trained. Results: benchmarks/resume_position_cpu.md.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hugcoder.files import MANIFEST
from hugcoder.model import manifest

ROOT = Path(__file__).resolve().parents[1]
LATE = 1_000_000


def command(args: argparse.Namespace, run: Path, max_steps: int) -> list[str]:
    values = {
        "config_file": ROOT / "configs/models/tiny.json",
        "token_store": args.token_store,
        "output_dir": run,
        "max_seq_length": 128,
        "max_steps": max_steps,
        "global_batch_size": args.rows,
        "per_device_train_batch_size": min(8, args.rows),
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "logging_steps": 1,
        "eval_strategy": "no",
        "held_out_rows": 0,
        "save_steps": 10,
    }
    words = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    return [sys.executable, str(ROOT / "train.py"), *words]


def seconds_to_step(args: argparse.Namespace, prepared: Path, step: int) -> float:
    """Start a copy of the run, wait for the line of `step` in metrics.jsonl, and end it."""
    run = prepared.with_name("copy")
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(prepared, run)
    began = time.perf_counter()
    log = (run.parent / "log").open("w")
    process = subprocess.Popen(command(args, run, 2 * LATE), stdout=log, stderr=log)
    metrics = run / "metrics.jsonl"
    while not any(json.loads(line)["step"] == step for line in lines_of(metrics)):
        if process.poll() is not None:
            raise SystemExit((run.parent / "log").read_text()[-2000:])
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    process.kill()
    process.wait()
    return seconds


def lines_of(metrics: Path) -> list[str]:
    text = metrics.read_text() if metrics.is_file() else ""
    return [line for line in text.split("\n")[:-1] if line]


def call_late(run: Path) -> None:
    """Make a checkpoint of step 1,000,000 out of that of step 10."""
    folder = run / f"checkpoint-{LATE}"
    shutil.copytree(run / "checkpoint-10", folder)
    facts = manifest.facts_of(folder)
    (folder / MANIFEST).unlink()
    state = json.loads((folder / "trainer_state.json").read_text())
    state["global_step"] = LATE
    (folder / "trainer_state.json").write_text(json.dumps(state))
    manifest.complete(folder, facts | {"step": LATE})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--token_store", type=Path, default=Path("data/quickstart-tokens"))
    parser.add_argument("--rows", type=int, default=8, help="Rows of one step.")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        early, late = Path(name) / "early", Path(name) / "late"
        subprocess.run(command(args, early, 10), check=True, capture_output=True)
        shutil.rmtree(early / "model")
        shutil.copytree(early, late)
        call_late(late)
        for label, run, step in (("10", early, 11), ("1,000,000", late, LATE + 1)):
            times = [seconds_to_step(args, run, step) for _ in range(args.repeats)]
            listed = ", ".join(f"{seconds:.1f}" for seconds in times)
            print(f"at step {label}: {listed} s, median {statistics.median(times):.1f} s")


if __name__ == "__main__":
    main()
