"""Writes status.json in the run folder: whether the run is running, or how it ended.

Launchers turn every exit code of a worker into 1, so a script that restarts runs reads it here. A
killed run leaves "running" behind. Only rank 0 writes it, whole or not at all.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from transformers import TrainerCallback

from hugcoder.files import read_object, write_json
from hugcoder.refusal import EXIT_REFUSED, EXIT_STOPPED, NO_ACCESS, NO_ROOM, Refusal

FILE = "status.json"
Status = Literal["running", "stopped", "finished", "refused", "hung", "failed"]


def write_status(run: Path, status: Status, step: int, exit_code: int | None) -> None:
    facts = {"status": status, "step": step, "exit_code": exit_code}
    write_json(run / FILE, facts | {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z")})


def read_step(run: Path) -> int:
    """Read the step that was last written; 0 without a status."""
    path = run / FILE
    return read_object(path).get("step", 0) if path.is_file() else 0


class RunStatus(TrainerCallback):
    """Follows the run's step, and writes it when training begins and at each checkpoint."""

    def __init__(self, run: Path, is_writer: bool):
        self.run, self.is_writer, self.step = run, is_writer, read_step(run)

    def write(self, status: Status, exit_code: int | None = None) -> None:
        if self.is_writer:
            write_status(self.run, status, self.step, exit_code)

    def on_train_begin(self, args, state, control, **kwargs):
        self.step = state.global_step
        self.write("running")

    def on_step_end(self, args, state, control, **kwargs):
        self.step = state.global_step

    def on_save(self, args, state, control, **kwargs):
        self.write("running")


@contextmanager
def kept_status(run: Path, is_writer: bool) -> Iterator[RunStatus]:
    """Keep the status of a run whose work is in the block."""
    status = RunStatus(run, is_writer)
    status.write("running")
    try:
        yield status
    except BaseException as error:
        with suppress(OSError):  # on a full disk, keep the error that ended the run
            status.write(*_end_of(error))
        raise
    status.write("finished", 0)


def _end_of(error: BaseException) -> tuple[Status, int]:
    """Return the status and exit code for an exception that leaves main()."""
    is_of_disk = isinstance(error, OSError) and error.errno in NO_ROOM | NO_ACCESS
    if is_of_disk or isinstance(error, Refusal):
        return "refused", EXIT_REFUSED
    if isinstance(error, KeyboardInterrupt):
        return "failed", 130
    if isinstance(error, SystemExit) and error.code == EXIT_STOPPED:
        return "stopped", EXIT_STOPPED
    return "failed", 1
