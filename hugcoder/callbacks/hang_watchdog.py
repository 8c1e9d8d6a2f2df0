"""Ends a run that hangs, and leaves behind where every thread of every rank stood.

When nothing has moved on a rank for a while, it writes its stacks to stacks/rank-R.txt in the run
folder and to the log, waits for the other ranks to do the same, and leaves with EXIT_HUNG. What
hangs for ever otherwise: a rank that waits for its data, a collective whose partner is elsewhere.
"""

import faulthandler
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from transformers import TrainerCallback

from hugcoder.refusal import EXIT_HUNG
from hugcoder.run_status import write_status

logger = logging.getLogger(__name__)

GRACE_SECONDS = 5.0  # at most; for the other ranks, whose last sign of life may be younger


class HangWatchdog(TrainerCallback):
    """Armed while training; fed by steps, evaluation batches, log lines and saves.

    A thread of ours watches. One of faulthandler's stands behind it, which needs no interpreter
    lock, for a hang inside native code that holds it; that one leaves with exit code 1.

    Args: seconds: without a sign of life until the run is ended; 0 = never.
    """

    def __init__(self, run: Path, seconds: float, rank: int):
        self.run, self.seconds, self.rank = run, seconds, rank
        self.path = run / "stacks" / f"rank-{rank}.txt"
        self.grace = min(GRACE_SECONDS, seconds / 3)
        self._fed, self._step = 0.0, 0
        self._file = None
        self._is_over = threading.Event()

    def on_train_begin(self, args, state, control, **kwargs):
        if not self.seconds:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")  # faulthandler needs it open before
        self._is_over.clear()
        self.feed(state)
        threading.Thread(target=self._watch, name="hang watchdog", daemon=True).start()

    def feed(self, state) -> None:
        """Something moved."""
        self._fed, self._step = time.monotonic(), state.global_step
        if self._file is not None:
            backup = self.seconds + 3 * self.grace
            faulthandler.dump_traceback_later(backup, file=self._file, exit=True)

    def on_step_end(self, args, state, control, **kwargs):
        self.feed(state)

    on_substep_end = on_log = on_evaluate = on_save = on_step_end

    def disarm(self) -> None:
        """Stop watching, also when training ended in an exception; leave nothing empty behind."""
        if self._file is None:
            return
        self._is_over.set()
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        self._file = None
        if not self.path.stat().st_size:
            self.path.unlink()
            with suppress(OSError):  # until the last rank is here it is not empty
                self.path.parent.rmdir()

    def _watch(self) -> None:
        while not self._is_over.wait(min(1.0, self.seconds / 10)):
            if time.monotonic() - self._fed > self.seconds:
                self._give_up()

    def _give_up(self) -> None:
        sentence = (
            f"rank {self.rank}: nothing has moved for {self.seconds / 60:g} minutes after step "
            f"{self._step}; the run ends, the stacks of all threads are in {self.path}"
        )
        logger.error(sentence)
        faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
        self._file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {sentence}\n")
        self._file.flush()
        faulthandler.dump_traceback(self._file, all_threads=True)
        if self.rank == 0:
            write_status(self.run, "hung", self._step, EXIT_HUNG)
        time.sleep(self.grace)
        os._exit(EXIT_HUNG)
