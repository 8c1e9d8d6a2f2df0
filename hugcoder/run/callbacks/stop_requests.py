"""Stops or saves a run on request: a signal to any one rank, or a file in the run folder.

SIGTERM, SIGINT or SIGUSR1 to one rank, or a file STOP: all ranks save a checkpoint at the same step
and the run ends with EXIT_STOPPED. A file SAVE: they save a checkpoint and continue. The ranks
agree by a reduction on the CPU. It begins at the end of a step and is read at the end of the next,
so no rank waits for it and no device is synchronised. The same signal again, some seconds later,
has its usual effect.
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
STOP_FILE = 64  # stands for the file among signal numbers; no signal of ours has the number 64
POLL_SECONDS = 1.0  # rank 0 looks for the files at most this often
# A scheduler sends a signal to every process, and launchers pass it on: the same one comes twice.
REPEAT_SECONDS = 5.0


class StopSignals:
    """Holds the first signal that came, and the handlers that were there before."""

    def __init__(self):
        self.received = 0
        self._before = {}
        self._first = {}  # signal -> when it first came

    def _remember(self, number: int, frame) -> None:
        if number in self._first:
            if time.monotonic() - self._first[number] >= REPEAT_SECONDS:
                signal.signal(number, self._before[number])
                os.kill(os.getpid(), number)
            return
        self._first[number] = time.monotonic()
        self.received = self.received or number
        name = signal.Signals(number).name
        sentence = f"{name}: saving a checkpoint after this step, then ending; again to end at once"
        os.write(2, f"{sentence}\n".encode())  # logging may hold a lock here


@contextmanager
def listening() -> Iterator[StopSignals]:
    """Remember signals in the block; an ignored signal (nohup, `&` in scripts) stays ignored."""
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
    """Return a data worker's start function that also makes the worker ignore the signals.

    Ctrl-C and schedulers signal whole process groups, and a worker that dies ends the run. Workers
    end when the training process tells them to, or is gone.
    """
    return partial(_start_ignoring, start_worker)


def _start_ignoring(start_worker: Callable[[int], None] | None, worker: int) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if start_worker is not None:
        start_worker(worker)


def refuse_while_stopped(run: Path) -> None:
    """Look for the file STOP on rank 0. Raises: Refusal on every rank when it is there."""
    if on_rank_0((run / STOP).exists):
        raise Refusal(
            f"{run / STOP} is there, so this run is not started; remove the file, then run the "
            "same command to go on."
        )


class StopRequests(TrainerCallback):
    """Acts on requests at the end of a step; `stopped` then says what stopped the run.

    Args: finish_saving: waits, on all ranks, for a checkpoint that is written in the background.
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
            control.should_evaluate = False  # the time before a kill is for the checkpoint
        if save:
            control.should_save = self._save_is_due = True

    def on_save(self, args, state, control, **kwargs):
        if self._save_is_due:
            self._save_is_asked = self._save_is_due = False
            self.finish_saving()  # removing the file tells the user that the checkpoint is whole
            if state.is_world_process_zero:
                (self.run / SAVE).unlink(missing_ok=True)

    def on_train_end(self, args, state, control, **kwargs):
        if self._round is not None:
            self._round[0].wait()
        self._round = None

    def _wishes(self, is_rank_zero: bool) -> list[int]:
        """Return what this rank asks for: a reason to stop, and whether to save."""
        asks_to_save = False
        if is_rank_zero and time.monotonic() - self._last_poll >= POLL_SECONDS:
            self._last_poll = time.monotonic()
            self._has_stop_file = (self.run / STOP).exists()
            asks_to_save = not self._save_is_asked and (self.run / SAVE).exists()
            self._save_is_asked |= asks_to_save
        return [STOP_FILE if self._has_stop_file else self.signals.received, int(asks_to_save)]

    def _agree(self, wishes: list[int]) -> list[int]:
        """Return the highest wishes of all ranks; with several ranks, those of the last step."""
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
