"""Programs for the ranks of tests: train.py with an accident while a checkpoint is made."""

import os
import signal
import time
from pathlib import Path

from torch.distributed import checkpoint as sharded

import train
from hugcoder.model import manifest
from hugcoder.run import checkpoint_saving

STEP_OF_ACCIDENT = 4


def _at_accident(folder) -> bool:
    return f"checkpoint-{STEP_OF_ACCIDENT}" in str(folder)


def killed_between_files(argv: list[str]) -> None:
    """Rank 1 dies when the model of step 4 is written and the optimizer is not."""
    save = sharded.save

    def save_or_die(state, *, storage_writer, **settings):
        if "optimizer" in state and _at_accident(storage_writer.path):
            time.sleep(0.3)  # let the training go on
            if os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGKILL)
        save(state, storage_writer=storage_writer, **settings)

    sharded.save = save_or_die
    train.main(argv)


def killed_before_the_manifest(argv: list[str]) -> None:
    """Rank 0 dies when all files of step 4 are there and the manifest is not."""
    complete = manifest.complete

    def complete_or_die(folder, *facts):
        if _at_accident(folder):
            os.kill(os.getpid(), signal.SIGKILL)
        complete(folder, *facts)

    manifest.complete = complete_or_die
    train.main(argv)


def few_log_lines(argv: list[str]) -> None:
    """Checkpoints keep only three lines of the log."""
    checkpoint_saving.KEPT_LOG_LINES = 3
    train.main(argv)


def slow_disk(argv: list[str]) -> None:
    """No shard of step 3 is written before step 5 is logged, for which a rank waits a minute."""
    save = sharded.save

    def save_late(state, *, storage_writer, **settings):
        checkpoint_folder = Path(storage_writer.path).parent
        deadline = time.monotonic() + 60
        while not _is_logged(5, checkpoint_folder.parent) and time.monotonic() < deadline:
            time.sleep(0.05)
        save(state, storage_writer=storage_writer, **settings)

    sharded.save = save_late
    train.main(argv)


def _is_logged(step: int, run: Path) -> bool:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return any(f'"step": {step},' in line for line in lines)
