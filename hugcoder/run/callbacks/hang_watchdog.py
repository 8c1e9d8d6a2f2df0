"""Ends a run that hangs, and records where every thread of every rank stood.

When a rank makes no progress for a while, it writes its stacks to stacks/rank-R.txt in the run
folder and to the log. It waits until the other ranks see the file and do the same, and exits with
EXIT_HUNG. Otherwise a rank without data, a collective without its partner, or a network that does
not connect the machines would hang for ever.
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

GRACE_SECONDS = 5.0  # at most, in which the other ranks see that one hangs
# The least limit until the first step has ended: kernels are compiled and shards are filled.
FIRST_STEP_SECONDS = 20 * 60.0
# The limit for work of unknown length, such as reading, hashing, resharding or writing a checkpoint
# of any size on any disk. Other ranks may wait for it.
LONG_SECONDS = PATIENCE_SECONDS


class HangWatchdog(TrainerCallback):
    """Watches the whole run; stages, steps, evaluation batches, log lines and saves feed it.

    One thread of ours watches. If native code hangs while it holds the interpreter lock, our thread
    cannot run; then faulthandler's thread, which needs no lock, writes the stacks and exits with
    code 1. Before training begins, its stacks go to the log.

    Args: seconds: without progress until the run is ended; 0 = never.
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
        """Watch the work in the block, also when it ends in an exception.

        Args: place: the first work, as in "while joining the other processes".
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
        """Note that other work begins; it may take `seconds`, if that is longer than the limit."""
        self._fed = time.monotonic()  # set before the limit, which may become shorter
        self._limit, self._place = max(self.seconds, seconds), place
        if self._is_over is not None:
            backup = self._limit + 3 * self.grace
            faulthandler.dump_traceback_later(backup, file=self._file or sys.__stderr__, exit=True)

    def feed(self, state) -> None:
        """Note progress at the trainer's step."""
        self._step = state.global_step
        self.at(f"after step {state.global_step}")

    def on_train_begin(self, args, state, control, **kwargs):
        if self._is_over is not None and self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")  # faulthandler needs an open file
        self._step = state.global_step
        place = f"in the self-test or the first step, after step {state.global_step}"
        self.at(place, FIRST_STEP_SECONDS)

    def on_step_end(self, args, state, control, **kwargs):
        self.feed(state)

    on_substep_end = on_prediction_step = on_log = on_evaluate = on_save = on_step_end

    def _disarm(self) -> None:
        """Stop watching, and remove an empty file of stacks."""
        if self._is_giving_up:  # another rank has left, and this one lost its connection
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
            with suppress(OSError):  # other ranks may still have files there
                self.path.parent.rmdir()

    def _watch(self) -> None:
        is_over, pause = self._is_over, min(1.0, self.seconds / 10)
        while not is_over.wait(pause):
            quiet = time.monotonic() - self._fed
            if quiet > self._limit:
                self._give_up(f"no progress for {self._limit / 60:g} minutes")
            # a rank that waits for the hanging one may have begun to wait much later
            if quiet > self.seconds / 10 and self._has_another_hung():
                self._give_up(f"another rank hangs, and no progress here for {quiet:.0f} s")

    def _has_another_hung(self) -> bool:
        before = self._stacks_before
        return any(size > before.get(name, 0) for name, size in self._stacks_of_others().items())

    def _is_anothers_folder(self) -> bool:
        """Tell whether the owner before this start still owns the folder: then it is not ours."""
        holder = holder_of(self.run)
        return holder != "" and holder == self._holder_before

    def _stacks_of_others(self) -> dict[str, int]:
        """Return the sizes of the other ranks' files of stacks, by name."""
        paths = [path for path in self.path.parent.glob("rank-*.txt") if path != self.path]
        sizes = {}
        for path in paths:
            with suppress(OSError):  # a rank that leaves removes its empty file
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
        with suppress(OSError):  # on a full disk only the log has the stacks
            if is_ours:
                self._write_stacks(sentence)
        time.sleep(self.grace)
        # written last, because a main thread that failed meanwhile has written its own status
        if self.rank == 0 and is_ours:
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
