"""Handles one start of a run, from joining the other processes to leaving together.

with session(arguments) as start:
    ... check, load, build ...
    if start.is_finished(identity): return
    resume_from = start.checkpoint_to_resume(identity)
    start.record(groups, identity, facts, resume_from)
    start.train(trainer, resume_from)
    trainer.export()
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hugcoder.engines.collectives import leave_together, on_rank_0
from hugcoder.engines.launched import launched_rank
from hugcoder.ownership import owned
from hugcoder.refusal import EXIT_STOPPED
from hugcoder.run import checkpoint
from hugcoder.run.arguments import RunArguments
from hugcoder.run.callbacks.hang_watchdog import FIRST_STEP_SECONDS, LONG_SECONDS, HangWatchdog
from hugcoder.run.callbacks.stop_requests import (
    StopRequests,
    StopSignals,
    listening,
    refuse_while_stopped,
)
from hugcoder.run.durable_trainer import DurableTrainer
from hugcoder.run.identity import Identity, named
from hugcoder.run.run_record import write_run_record
from hugcoder.run.run_status import RunStatus, kept_status

logger = logging.getLogger(__name__)


@contextmanager
def session(arguments: RunArguments) -> Iterator["Session"]:
    """Join the other processes, own the run's folder, listen to signals and keep the status.

    All ranks call it, and leave together at the end of the block. From here on, a hang ends the
    run.

    Raises: Refusal when the processes are not those launched, another start owns the folder, or the
    folder holds a file STOP.
    """
    run, rank = Path(arguments.output_dir), launched_rank()
    watchdog = HangWatchdog(run, arguments.hang_timeout_minutes * 60, rank)
    with watchdog.armed("while joining the other processes"):
        arguments.join()
        watchdog.at("while agreeing to start with the other processes", FIRST_STEP_SECONDS)
        with (
            owned_by_rank_0(run),
            listening() as signals,
            kept_status(run, rank == 0) as status,
        ):
            refuse_while_stopped(run)
            yield Session(run, arguments, watchdog, signals, status)
        watchdog.at("while leaving together with the other processes")
        leave_together()


@contextmanager
def owned_by_rank_0(folder: Path) -> Iterator[None]:
    """Own an output folder on rank 0, for all ranks. Raises: Refusal on all ranks."""
    with ExitStack() as held:
        on_rank_0(lambda: held.enter_context(owned(folder)))
        yield


@dataclass
class Session:
    """Holds what one start shares with its trainer; `session` makes it."""

    run: Path
    arguments: RunArguments
    watchdog: HangWatchdog
    signals: StopSignals
    status: RunStatus

    def now(self, place: str) -> None:
        """Tell the watchdog what begins, as in "while building the model"; it may take hours."""
        self.watchdog.at(place, LONG_SECONDS)

    def is_finished(self, identity: Identity) -> bool:
        """Tell on all ranks whether the run has written its final model."""
        steps, given = self.arguments.max_steps, self.arguments.resume_from_checkpoint
        if not checkpoint.is_finished(self.run, identity, steps, given):
            return False
        model = self.run / checkpoint.FINAL_MODEL
        logger.info("%s is finished; its model is in %s", self.run, model)
        self.status.step = steps
        return True

    def checkpoint_to_resume(self, identity: Identity) -> Path | None:
        """Find the checkpoint to resume from; None = begin. Raises: see `find_resumable`."""
        given = self.arguments.resume_from_checkpoint
        found = checkpoint.find_resumable(self.run, given, identity)
        checkpoint.check_length(found, self.arguments.max_steps)
        return found

    def record(
        self,
        groups: Iterable[Any],
        identity: Identity,
        facts: dict[str, Any],
        resume_from: Path | None,
    ) -> None:
        """Write run.json on rank 0, and warn of arguments that changed."""
        if not self.arguments.should_save:
            return
        changed = write_run_record(self.run, groups, identity.facts, facts, resume_from)
        if changed:
            logger.warning("arguments changed since the last start: %s", named(changed))

    def train(self, trainer: DurableTrainer, resume_from: Path | None) -> None:
        """Train to the end and score once more; when asked to stop, save and leave.

        Raises: SystemExit with EXIT_STOPPED, on all ranks, when the run was stopped.
        """
        stop_requests = StopRequests(self.run, self.signals, trainer.checkpoints.finish)
        trainer.add_callback(stop_requests)
        trainer.add_callback(self.status)
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        if stop_requests.stopped:
            self._leave_stopped(stop_requests.stopped)
        has_scores = trainer.eval_dataset is not None and self.arguments.eval_strategy != "no"
        if has_scores and trainer.last_evaluated_step != trainer.state.global_step:
            trainer.evaluate()

    def _leave_stopped(self, what: str) -> None:
        removed = " once that is removed," if what.startswith("file ") else ""
        logger.info("stopped by %s;%s the same command goes on from here", what, removed)
        self.status.write("stopped", EXIT_STOPPED)
        leave_together()  # otherwise a launcher ends the ranks that are still running
        raise SystemExit(EXIT_STOPPED)
