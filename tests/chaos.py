"""A storm of kills over a pretraining run: nothing that was complete may be lost, and the weights
at the end must be those of a run that nobody disturbed.

    python tests/chaos.py --kills 40 --engines ddp.yaml fsdp.yaml deepspeed.yaml

Each launch is two ranks of train.py over gloo. At a random moment, half of the time while a
checkpoint is being written, one random rank gets SIGKILL or SIGTERM; then the same command is
started again, by nobody's decision. A run that comes through to its end is compared, and the storm
goes on over a new one. tests/test_chaos.py runs a short form; the result of a long one is in
benchmarks/chaos_cpu.md.
"""

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ranks import Ranks
from run_in_ranks import command_line, losses, tiny_words

MAX_STEPS, SAVE_STEPS = 24, 3
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM}


@dataclass
class Storm:
    """What one engine went through."""

    engine: str
    kills: Counter = field(default_factory=Counter)
    codes: Counter = field(default_factory=Counter)
    launches: int = 0
    finished_runs: int = 0
    torn: int = 0
    complaints: list[str] = field(default_factory=list)

    @property
    def num_kills(self) -> int:
        return sum(self.kills.values())


def words_of(run: Path, store: Path, model_config: Path) -> list[str]:
    changes = {"output_dir": run, "max_steps": MAX_STEPS}
    changes |= {"save_steps": SAVE_STEPS, "save_total_limit": 2}
    return command_line(tiny_words(store, model_config, **changes))


def weights_digest(run: Path) -> str:
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def complete_steps(run: Path) -> set[int]:
    return {int(path.parent.name.split("-")[1]) for path in run.glob("checkpoint-*/manifest.json")}


def is_saving(run: Path) -> bool:
    """Whether a checkpoint folder is there that no manifest completes yet."""
    return any(not (path / "manifest.json").exists() for path in run.glob("checkpoint-*"))


def strike(run: Path, pids: list[int], rng: random.Random, storm: Storm) -> None:
    """Send one signal to one rank at a random moment; nothing when the ranks end before."""
    in_write = rng.random() < 0.5
    name, victim = rng.choice(sorted(SIGNALS)), rng.randrange(len(pids))
    deadline = time.monotonic() + (60.0 if in_write else rng.uniform(0.2, 3.0))
    was_torn = is_saving(run)  # left by the strike before, until the new start clears it away
    while time.monotonic() < deadline:
        if not is_running(pids[victim]):
            return
        saving = is_saving(run)
        was_torn = was_torn and saving
        if in_write and saving and not was_torn:
            time.sleep(rng.uniform(0.0, 0.04))
            break
        time.sleep(0.001)
    if is_running(pids[victim]):
        moment = "while saving" if is_saving(run) else "between"
        os.kill(pids[victim], SIGNALS[name])
        storm.kills[f"{name} {moment}, rank {victim}"] += 1


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def rage(
    ranks: Ranks, engine: str, num_kills: int, folder: Path, store: Path, config: Path, seed: int
) -> Storm:
    """Kill until there were `num_kills`, then let the last run come to its end."""
    rng, storm = random.Random(f"{seed} {engine}"), Storm(engine)
    calm = folder / f"{engine}-calm"
    world = ranks.run(words_of(calm, store, config), config=engine)
    assert world.codes == [0, 0], world.output
    expected_digest, expected_losses = weights_digest(calm), losses(calm)
    while storm.num_kills < num_kills:
        run = folder / f"{engine}-{storm.finished_runs}"
        without_progress = 0
        while not (run / "model" / "manifest.json").exists():
            before = complete_steps(run)
            pids = ranks.start(words_of(run, store, config), config=engine, grace=2.0)
            if storm.num_kills < num_kills:
                strike(run, pids, rng, storm)
            world = ranks.wait()
            storm.launches += 1
            storm.codes[str(sorted(world.codes))] += 1
            check_start(storm, before, world.output)
            without_progress = 0 if complete_steps(run) - before else without_progress + 1
            if without_progress == 30:
                storm.complaints.append(f"{run.name}: 30 launches without progress")
                return storm
        storm.finished_runs += 1
        storm.torn += len(list(run.glob("torn-*")))
        if weights_digest(run) != expected_digest:
            storm.complaints.append(f"{run.name}: other weights than the undisturbed run")
        if losses(run) != expected_losses:
            storm.complaints.append(f"{run.name}: other losses than the undisturbed run")
        shutil.rmtree(run)
    return storm


def check_start(storm: Storm, before: set[int], output: str) -> None:
    """A launch must go on from the last complete checkpoint, and never be refused."""
    if found := re.search(r"going on from \S*checkpoint-(\d+)", output):
        if int(found.group(1)) != max(before, default=-1):
            storm.complaints.append(f"went on from {found.group(1)}, complete were {before}")
    elif "tokens on 2 process" in output and before:
        storm.complaints.append(f"began anew although {before} were complete")
    if ": error:" in output:
        storm.complaints.append("refused: " + output.partition(": error:")[2].splitlines()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40, help="For each engine.")
    parser.add_argument("--engines", nargs="+", default=["ddp.yaml", "fsdp.yaml", "deepspeed.yaml"])
    parser.add_argument("--token_store", type=Path, default=Path("data/quickstart-tokens"))
    parser.add_argument("--config_file", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ranks = Ranks(folder)
        for engine in args.engines:
            began = time.monotonic()
            storm = rage(
                ranks,
                engine,
                args.kills,
                folder,
                args.token_store.resolve(),
                args.config_file.resolve(),
                args.seed,
            )
            seconds = time.monotonic() - began
            print(f"{engine}: {storm.num_kills} kills, {storm.launches} launches, ", end="")
            print(
                f"{storm.finished_runs} runs to their end, {storm.torn} torn checkpoints kept ",
                end="",
            )
            print(f"aside, {seconds:.0f} s, complaints: {storm.complaints or 'none'}")
            for what, count in sorted(storm.kills.items()):
                print(f"  {count:3d} x {what}")
            for what, count in storm.codes.most_common():
                print(f"  {count:3d} launches ended with {what}")
            sys.stdout.flush()
            bad += len(storm.complaints)
        ranks.close()
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
