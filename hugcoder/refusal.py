"""Ends a user's mistake with one sentence on the terminal and exit code 2, without a traceback.

Holds the exception that carries the sentence, the wrapper around every entry point's main(), and
the exit codes that launchers may rely on.
"""

import errno
import functools
import io
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hugcoder import installed, last_words

EXIT_REFUSED = 2  # do not start again before the user has done what the sentence says
EXIT_STOPPED = 75  # stopped on request with a complete checkpoint; start again to go on
EXIT_HUNG = 76  # no progress for hang_timeout_minutes; the stacks are in the run folder

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_ACCESS = {errno.EACCES, errno.EROFS, errno.EPERM}
TOO_MANY_OPEN = {errno.EMFILE, errno.ENFILE}
BROKEN_DISK = {errno.EIO, errno.ESTALE, errno.ENOTCONN}


class Refusal(ValueError):
    """Reports a mistake that the user can repair: what was given, what is allowed, what to do."""


def entry_point(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a main() so that a Refusal or a fault of the machine ends in one sentence, exit code 2.

    Our own mistakes keep their traceback.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        _make_streams_usable()
        try:
            _run(main)
        except Refusal as refusal:
            _end(str(refusal))
        except BrokenPipeError:  # the reader of our output (head, less) has ended
            _drop_output()
            sys.exit(141)
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as error:
            sentence = _sentence_for(error) or installed.why_not_loaded(error)
            if not sentence:
                raise
            _end(sentence)

    return wrapped


def _run(main: Callable[[], None]) -> None:
    """Run main() and flush what it printed, so that a full disk can still be reported."""
    try:
        main()
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _make_streams_usable() -> None:
    """Point closed streams to the null device, and escape characters that a terminal lacks.

    Otherwise a closed stream would write into the next file that is opened.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and mode == "w" and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Send the rest of the output to the null device, so that Python's exit does not fail on it."""
    with suppress(OSError, ValueError):  # the stream may have no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sentence_for(error: Exception) -> str:
    """Say what to do about an error of the machine or of a path; "" for any other error."""
    if _is_out_of_memory(error):
        reason = reason_of(error)
        return f"memory ran out ({reason}): give smaller sizes, or a machine with more of it."
    if not isinstance(error, OSError):
        error = _from_rust(error)
    if error is None or error.errno is None:
        return ""
    path = error.filename
    if error.errno in NO_ROOM and error.filename2:  # of a copy, the second file has no room
        path = error.filename2
    where = f" ({path})" if isinstance(path, str | bytes) else ""
    what = f"{os.strerror(error.errno)}{where}: "
    if error.errno in NO_ROOM:
        return f"{what}make room, then run the same command to go on."
    if error.errno in NO_ACCESS:
        return f"{what}give a folder that may be read and written."
    if error.errno in TOO_MANY_OPEN:
        return f"{what}raise the limit of open files (ulimit -n 65536), or use fewer workers."
    if error.errno in BROKEN_DISK:
        return f"{what}the disk or its connection fails; give a path on another disk."
    return f"{what}check this path and what is there." if where else ""


def _is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out, by the error's class or words.

    Only accelerators have a class; torch on the CPU, and Python for a thread's stack, have words.
    """
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator: can't allocate memory" in str(error)
        or str(error) == "can't start new thread"
    )


def _from_rust(error: Exception) -> OSError | None:
    """Return the OSError that tokenizers and safetensors, written in Rust, report only in words."""
    is_rust = type(error) is Exception or "safetensors" in type(error).__module__
    found = re.search(r"\(os error (\d+)\)", str(error)) if is_rust else None
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


def reason_of(error: BaseException) -> str:
    """Return what a library's error says, as part of a sentence.

    That is its first line, and the second too if the first ends with a colon.
    """
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    said = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    said = said.rstrip(".")
    return (
        f"{type(error).__name__}: {said}"
        if isinstance(error, KeyError)
        else said or type(error).__name__
    )


def program_name() -> str:
    """Return how the user called this program: train.py, or python -m data_prep."""
    path = Path(sys.argv[0])
    return f"python -m {path.parent.name}" if path.name == "__main__.py" else path.name


def _end(sentence: str) -> None:
    """Say the sentence on one line, whatever characters it holds, and exit."""
    line = re.sub(r"\s*\n\s*", " ", sentence.strip())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    last_words.say(f"{program_name()}: error: {line}")
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    sys.exit(EXIT_REFUSED)
