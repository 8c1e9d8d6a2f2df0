"""Ends a run that hangs, and leaves behind where every thread of every rank stood.

When nothing has moved on a rank for a while, it writes its stacks to stacks/rank-R.txt in the run
folder and to the log, waits for the other ranks, who see it there and do the same, and leaves with
EXIT_HUNG. What hangs for ever otherwise: a rank that waits for its data, a collective whose partner
is elsewhere, a network that does not connect the machines.
"""

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transformers import TrainerCallback

from hugcoder.engines.collectives import PATIENCE_SECONDS
from hugcoder.ownership import holder_of
from hugcoder.refusal import EXIT_HUNG
from hugcoder.run.run_status import read_step, write_status

logger = logging.getLogger(__name__)

GRACE_SECONDS = 5.0  # at most; for the other ranks to see that one hangs
# Until the first step has ended, at least: kernels are compiled and shards are filled
FIRST_STEP_SECONDS = 20 * 60.0
# For work whose length nobody knows, while other ranks may wait for it: to read and hash, or to
# reshard or write a checkpoint of any size from or to any disk.
LONG_SECONDS = PATIENCE_SECONDS


class HangWatchdog(TrainerCallback):
    """Watches all of a run; fed by its stages, by steps, evaluation batches, log lines and saves.

    A thread of ours watches. One of faulthandler's stands behind it, which needs no interpreter
    lock, for a hang inside native code that holds it; that one leaves with exit code 1, its stacks
    are in the log until training begins.

    Args: seconds: without a sign of life until the run is ended; 0 = never.
    """

    def __init__(self, run: Path, seconds: float, rank: int):
        self.run, self.seconds, self.rank = run, seconds, rank
        self.path = run / "stacks" / f"rank-{rank}.txt"
        self.grace = min(GRACE_SECONDS, seconds / 3)
        self._fed, self._limit, self._place = 0.0, seconds, ""
        self._step: int | None = None
        self._file = None
        self._is_over: threading.Event | None = None
        self._stacks_before: dict[str, int] = {}
        self._holder_before = ""
        self._is_giving_up = False

    @contextmanager
    def armed(self, place: str) -> Iterator[None]:
        """Watch what is done in the block, also when it ends in an exception.

        Args: place: what is done first, as in "while joining the other processes".
        """
        if not self.seconds:
            yield
            return
        self._is_over = threading.Event()
        self._stacks_before, self._holder_before = self._stacks_of_others(), holder_of(self.run)
        self.at(place, FIRST_STEP_SECONDS)
        self._thread = threading.Thread(target=self._watch, name="hang watchdog", daemon=True)
        self._thread.start()
        try:
            yield
        finally:
            self._disarm()

    def at(self, place: str, seconds: float = 0.0) -> None:
        """Something else begins; it may take `seconds` where that is longer than steps may."""
        self._fed = time.monotonic()  # before the limit, which may be shorter now
        self._limit, self._place = max(self.seconds, seconds), place
        if self._is_over is not None:
            backup = self._limit + 3 * self.grace
            faulthandler.dump_traceback_later(backup, file=self._file or sys.__stderr__, exit=True)

    def feed(self, state) -> None:
        """Something moved."""
        self._step = state.global_step
        self.at(f"after step {state.global_step}")

    def on_train_begin(self, args, state, control, **kwargs):
        if self._is_over is not None and self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")  # for faulthandler, open before
        self._step = state.global_step
        place = f"in the self-test or the first step, after step {state.global_step}"
        self.at(place, FIRST_STEP_SECONDS)

    def on_step_end(self, args, state, control, **kwargs):
        self.feed(state)

    on_substep_end = on_log = on_evaluate = on_save = on_step_end

    def _disarm(self) -> None:
        """Stop watching and leave nothing empty behind."""
        if self._is_giving_up:  # others have left before us, and their connections were lost
            self._thread.join()
        self._is_over.set()
        self._is_over = None
        faulthandler.cancel_dump_traceback_later()
        if self._file is None:
            return
        self._file.close()
        self._file = None
        if not self.path.stat().st_size:
            self.path.unlink()
            with suppress(OSError):  # until the last rank is here it is not empty
                self.path.parent.rmdir()

    def _watch(self) -> None:
        is_over, pause = self._is_over, min(1.0, self.seconds / 10)
        while not is_over.wait(pause):
            quiet = time.monotonic() - self._fed
            if quiet > self._limit:
                self._give_up(f"nothing has moved for {self._limit / 60:g} minutes")
            # a rank that waits for another may have begun to wait much later
            if quiet > self.seconds / 10 and self._has_another_hung():
                self._give_up(f"another rank hangs, and nothing has moved here for {quiet:.0f} s")

    def _has_another_hung(self) -> bool:
        before = self._stacks_before
        return any(size > before.get(name, 0) for name, size in self._stacks_of_others().items())

    def _is_anothers_folder(self) -> bool:
        """Whether who held the folder when this start began holds it still: it is not ours then."""
        holder = holder_of(self.run)
        return holder != "" and holder == self._holder_before

    def _stacks_of_others(self) -> dict[str, int]:
        """The sizes of what other ranks have written, by name."""
        paths = [path for path in self.path.parent.glob("rank-*.txt") if path != self.path]
        sizes = {}
        for path in paths:
            with suppress(OSError):  # who leaves takes an empty one away
                sizes[path.name] = path.stat().st_size
        return {name: size for name, size in sizes.items() if size}

    def _give_up(self, why: str) -> None:
        self._is_giving_up, is_ours = True, not self._is_anothers_folder()
        place = self.path if is_ours else "the log"
        sentence = (
            f"rank {self.rank}: {why} {self._place}; the run ends, the stacks of all threads are "
            f"in {place}"
        )
        logger.error(sentence)
        faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
        with suppress(OSError):  # on a full disk the log alone has them
            if is_ours:
                self._write_stacks(sentence)
        time.sleep(self.grace)
        if (
            self.rank == 0 and is_ours
        ):  # last: where the main thread has failed meanwhile, it said so
            with suppress(OSError):
                step = read_step(self.run) if self._step is None else self._step
                write_status(self.run, "hung", step, EXIT_HUNG)
        os._exit(EXIT_HUNG)

    def _write_stacks(self, sentence: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {sentence}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
