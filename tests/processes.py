"""Starts programs for tests: they hear signals, and nothing of them is left behind.

A program inherits the signals that are ignored: all tests of a run under nohup or behind a shell's
`&` would start programs that are deaf to SIGHUP or SIGINT. And the end of a program is not the end
of what it has started, in sessions of their own too (torchrun, `set -m`), so all of it carries a
mark in its environment.
"""

import importlib.util
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import psutil

MARK = "HUGCODER_TESTS"
HEARD = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1)
HEARD = (*HEARD, signal.SIGUSR2, signal.SIGCHLD)


@contextmanager
def signals_at_default() -> Iterator[None]:
    """Lift what this process ignores, for what is started inside."""
    deaf = [number for number in HEARD if signal.getsignal(number) == signal.SIG_IGN]
    for number in deaf:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number in deaf:
            signal.signal(number, signal.SIG_IGN)


def start(words: list[str], env: dict[str, str] | None = None, **settings) -> subprocess.Popen:
    """Popen of a program in a session of its own, which `end` ends with all that it started."""
    mark = uuid.uuid4().hex
    environment = dict(os.environ if env is None else env)
    environment[MARK] = f"{os.environ.get(MARK, '')} {mark}"
    with signals_at_default():
        process = subprocess.Popen(words, env=environment, start_new_session=True, **settings)
    process.mark = mark
    return process


def end(process: subprocess.Popen) -> None:
    """Kill a program and what it has started, and what that has started."""
    end_marked(process.mark)
    process.wait(timeout=30)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


def end_marked(mark: str) -> None:
    """Kill until none is left: one may start another meanwhile."""
    deadline = time.monotonic() + 30
    while found := marked(mark):
        assert time.monotonic() < deadline, f"cannot be ended: {found}"
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=1)


def marked(mark: str) -> list[psutil.Process]:
    """Processes, but this one, that were started with a mark and are not over."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it is over, or somebody else's
            is_ours = mark in process.environ().get(MARK, "")
            if is_ours and process.pid != os.getpid():
                found.append(process)
    return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def run(
    words: list[str], timeout: float, *, text: bool = True, **settings
) -> subprocess.CompletedProcess:
    """Run a program to its end and give its output.

    Raises: subprocess.TimeoutExpired, when the program and all that it started have been ended.
    """
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = start(words, text=text, **pipes, **settings)
    try:
        output, errors = process.communicate(timeout=timeout)
    finally:
        end(process)
    return subprocess.CompletedProcess(words, process.returncode, output, errors)


def launch_py() -> ModuleType:
    """scripts/launch.py, which is a program, as a module."""
    path = Path(__file__).resolve().parents[1] / "scripts" / "launch.py"
    spec = importlib.util.spec_from_file_location("launch", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
