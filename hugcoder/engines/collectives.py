"""Gives all ranks one outcome: what rank 0 decides, or the error of any rank.

Without it, a rank that fails alone leaves the others waiting in their next collective. Works in one
process too. Loads torch only when it is called.
"""

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 12 * 3600.0


def num_ranks(group: Any = None) -> int:
    """Count the ranks of a process group (None = all ranks); 1 without a process group."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size(group)


def cpu_group(timeout_seconds: float) -> Any:
    """Make a group of all ranks whose collectives run on the CPU; None without a process group.

    All ranks call it. Collectives of one group must keep their order, so a thread that runs at the
    same time needs a group of its own.
    """
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    return distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))


@functools.cache
def patient_group() -> Any:
    """Make a group of all ranks with a long timeout; NCCL ends the run after the default one."""
    return cpu_group(PATIENCE_SECONDS)


def on_rank_0(decide: Callable[[], T], group: Any = None) -> T:
    """Run `decide` on rank 0, and return its answer or raise its error on all ranks of the group.

    Args: group: None = all ranks, which wait for hours: rank 0 may read a large checkpoint.
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
    """Destroy all process groups, on all ranks together, when the work is done.

    Otherwise gloo's threads now and then abort the interpreter at its end ("terminate called
    without an active exception"), and a finished run ends with an error.
    """
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return
    distributed.barrier()
    patient_group.cache_clear()
    distributed.destroy_process_group()


def gather(value: T, error: Exception | None, group: Any = None) -> list[T]:
    """Return the values of all ranks; if any rank has an error, raise the first on all ranks."""
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
