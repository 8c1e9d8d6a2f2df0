"""Stops or saves a run on request: a signal to any one rank, or a file in the run folder.

SIGTERM, SIGINT or SIGUSR1 to one rank, or a file STOP: all ranks take a checkpoint at the same
step and the run ends with EXIT_STOPPED. A file SAVE: they take a checkpoint and go on. The ranks
agree by a reduction on the CPU that is begun at the end of a step and read at the end of the next:
nobody waits for it and no device is synchronised. The same signal again, some seconds later, does
what it did before it was caught.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from hugcoder.engines.collectives import cpu_group, on_rank_0
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
STOP, SAVE = "STOP", "SAVE"  # files in the run folder
STOP_FILE = 64  # among signal numbers, of which Linux has 64: the file was seen
POLL_SECONDS = 1.0  # at most so often rank 0 looks for the files
# Launchers pass a signal on that the scheduler has sent to every process: the same one comes twice.
REPEAT_SECONDS = 5.0


class StopSignals:
    """The first signal that came, and the handlers that were there before."""

    def __init__(self):
        self.received = 0
        self._before = {}
        self._first = {}  # when each came first

    def _remember(self, number: int, frame) -> None:
        if number in self._first:
            if time.monotonic() - self._first[number] >= REPEAT_SECONDS:
                signal.signal(number, self._before[number])
                os.kill(os.getpid(), number)
            return
        self._first[number] = time.monotonic()
        self.received = self.received or number
        name = signal.Signals(number).name
        sentence = f"{name}: a checkpoint after this step, then the end; again, later, ends at once"
        os.write(2, f"{sentence}\n".encode())  # logging may hold a lock here


@contextmanager
def listening() -> Iterator[StopSignals]:
    """Remember signals from here on; a signal that is ignored (nohup, `&` in scripts) stays so."""
    signals = StopSignals()
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}
    signals._before = {n: handler for n, handler in before.items() if handler != signal.SIG_IGN}
    for number in signals._before:
        signal.signal(number, signals._remember)
    try:
        yield signals
    finally:
        for number, handler in signals._before.items():
            signal.signal(number, handler)


def ignoring_signals(start_worker: Callable[[int], None] | None) -> Callable[[int], None]:
    """A data worker's start that also makes it ignore the signals.

    Ctrl-C and schedulers signal whole process groups; a worker that dies of it takes the run along.
    Workers end when the training process tells them to, or is gone.
    """
    return partial(_start_ignoring, start_worker)


def _start_ignoring(start_worker: Callable[[int], None] | None, worker: int) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if start_worker is not None:
        start_worker(worker)


def refuse_while_stopped(run: Path) -> None:
    """Raises: Refusal on every rank when rank 0 sees the file STOP in the run folder."""
    if on_rank_0((run / STOP).exists):
        raise Refusal(
            f"{run / STOP} is there, so this run is not started; remove the file, then run the "
            "same command to go on."
        )


class StopRequests(TrainerCallback):
    """Acts on requests at the end of a step; `stopped` says afterwards what stopped the run.

    Args: finish_saving: waits, on all ranks, for a checkpoint that is written behind the training.
    """

    def __init__(self, run: Path, signals: StopSignals, finish_saving: Callable[[], None]):
        self.run, self.signals, self.finish_saving = run, signals, finish_saving
        self.stopped = ""
        self._group = self._round = None
        self._last_poll = -POLL_SECONDS
        self._has_stop_file = self._save_is_asked = self._save_is_due = False

    def on_train_begin(self, args, state, control, **kwargs):
        if args.world_size > 1:
            self._group = cpu_group(args.ddp_timeout)

    def on_step_end(self, args, state, control, **kwargs):
        stop, save = self._agree(self._wishes(state.is_world_process_zero))
        if stop and state.global_step < state.max_steps:
            self.stopped = f"file {STOP}" if stop == STOP_FILE else signal.Signals(stop).name
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False  # the time until the kill is for the checkpoint
        if save:
            control.should_save = self._save_is_due = True

    def on_save(self, args, state, control, **kwargs):
        if self._save_is_due:
            self._save_is_asked = self._save_is_due = False
            self.finish_saving()  # whoever asked takes the file's absence for a whole checkpoint
            if state.is_world_process_zero:
                (self.run / SAVE).unlink(missing_ok=True)

    def on_train_end(self, args, state, control, **kwargs):
        if self._round is not None:
            self._round[0].wait()
        self._round = None

    def _wishes(self, is_rank_zero: bool) -> list[int]:
        """What this rank asks for: a reason to stop, and whether to save."""
        asks_to_save = False
        if is_rank_zero and time.monotonic() - self._last_poll >= POLL_SECONDS:
            self._last_poll = time.monotonic()
            self._has_stop_file = (self.run / STOP).exists()
            asks_to_save = not self._save_is_asked and (self.run / SAVE).exists()
            self._save_is_asked |= asks_to_save
        return [STOP_FILE if self._has_stop_file else self.signals.received, int(asks_to_save)]

    def _agree(self, wishes: list[int]) -> list[int]:
        """The highest wishes of all ranks; in a world of several, those of the step before."""
        if self._group is None:
            return wishes
        agreed = [0] * len(wishes)
        if self._round is not None:
            work, values = self._round
            work.wait()
            agreed = values.tolist()
        values = torch.tensor(wishes)
        work = dist.all_reduce(values, dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._round = (work, values)
        return agreed
