"""One outcome for all ranks: what rank 0 decides, and the error that any one of them meets.

Without it a rank that fails alone leaves the others waiting in their next collective. Works in one
process too, where there is nobody to agree with. Loads torch only when it is called.
"""

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 12 * 3600.0


def num_ranks(group: Any = None) -> int:
    """Ranks of a process group (None = all), 1 where none was made."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size(group)


def cpu_group(timeout_seconds: float) -> Any:
    """A new group of all ranks whose collectives run on the CPU; None where none was made.

    All ranks call it. What may run at the same time, as in a thread, needs a group each:
    collectives of one group must keep their order.
    """
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    return distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))


@functools.cache
def patient_group() -> Any:
    """All ranks, with a timeout far beyond the default group's, behind which NCCL ends the run."""
    return cpu_group(PATIENCE_SECONDS)


def on_rank_0(decide: Callable[[], T], group: Any = None) -> T:
    """Run `decide` on rank 0 and give its answer, or raise its error, on all ranks of the group.

    Args: group: None = all ranks, which wait for hours: rank 0 may have a large checkpoint to read.
    """
    if num_ranks(group) == 1:
        return decide()
    from torch import distributed

    group = group or patient_group()
    outcome: list[Any] = [None, None]
    if distributed.get_rank(group) == 0:
        try:
            outcome[0] = decide()
        except Exception as error:  # raised again below, on every rank
            outcome[1] = error
    distributed.broadcast_object_list(outcome, src=0, group=group)
    answer, error = outcome
    if error is not None:
        raise error
    return answer


def leave_together() -> None:
    """Take all process groups down, together, when the work is done.

    Left to the end of the interpreter, gloo's threads now and then abort it ("terminate called
    without an active exception"), and a run that had finished ends with an error.
    """
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return
    distributed.barrier()
    patient_group.cache_clear()
    distributed.destroy_process_group()


def gather(value: T, error: Exception | None, group: Any = None) -> list[T]:
    """The values of all ranks; raises the first rank's error on all of them when there is one."""
    outcomes = [(value, error)]
    if num_ranks(group) > 1:
        from torch import distributed

        outcomes = [None] * num_ranks(group)
        distributed.all_gather_object(outcomes, (value, error), group=group)
    if error is not None:
        raise error
    for _, other in outcomes:
        if other is not None:
            raise other
    return [value for value, _ in outcomes]
