"""Runs many tasks in a few processes: results in order, only the next few tasks in memory.

Processes are spawned, not forked: pyarrow has threads of its own.
"""

import collections
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from hugcoder.refusal import Refusal

TASKS_AHEAD = 4  # per worker, so that none waits for the listing


def run_tasks(
    function: Callable[..., Any], tasks: Iterable[tuple], num_workers: int
) -> Iterator[Any]:
    """Yield function(*task) of each task, in order; one worker runs in this process.

    Raises: Refusal when a process was killed, besides what the function raises.
    """
    if num_workers == 1:
        yield from (function(*task) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_follow_parent)
    waiting: collections.deque = collections.deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(function, *task))
            if len(waiting) >= TASKS_AHEAD * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise Refusal(
            "a worker process was killed, most likely because memory ran out; run the same command "
            "with a smaller --num_workers, finished work is kept."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it is gone: a pool's workers would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
