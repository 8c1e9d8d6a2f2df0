"""User mistakes: one sentence on the terminal, exit code 2, no traceback.

Holds the exception that carries such a sentence, the wrapper every entry point runs its main() in,
and the exit codes that a program which starts another one may rely on.
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

EXIT_REFUSED = 2  # starting again is of no use before the user has done what the sentence says
EXIT_STOPPED = 75  # stopped on request with a complete checkpoint; start again to go on
EXIT_HUNG = 76  # nothing moved for hang_timeout_minutes; the stacks are in the run folder

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_ACCESS = {errno.EACCES, errno.EROFS, errno.EPERM}
TOO_MANY_OPEN = {errno.EMFILE, errno.ENFILE}
BROKEN_DISK = {errno.EIO, errno.ESTALE, errno.ENOTCONN}


class Refusal(ValueError):
    """A mistake the user can repair: the message says what was given, what is allowed and what to
    do.
    """


def entry_point(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a main() so that a Refusal, and what only the machine can be blamed for, ends in one
    sentence and exit code 2. Mistakes of ours keep their traceback.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        _make_streams_usable()
        try:
            _run(main)
        except Refusal as refusal:
            _end(str(refusal))
        except BrokenPipeError:  # the reader of our output (head, less) went away
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
    """Run main() and write out what it printed, here where a full disk can still be told."""
    try:
        main()
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _make_streams_usable() -> None:
    """Closed streams lead to nowhere, not into the next file that is opened, and a character that
    an ASCII terminal lacks is shown as its escape.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and mode == "w" and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Let what is still to be written go nowhere, so that Python's end does not try again."""
    with suppress(OSError, ValueError):  # a stream that has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sentence_for(error: Exception) -> str:
    """What to do about an error that is the machine's or a path's; empty for any other."""
    if _is_out_of_memory(error):
        return f"memory ran out ({told(error)}): give smaller sizes, or a machine with more of it."
    if not isinstance(error, OSError):
        error = _from_rust(error)
    if error is None or error.errno is None:
        return ""
    path = error.filename
    if error.errno in NO_ROOM and error.filename2:  # a copy: it is the second one that has no room
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
        return f"{what}the disk or its connection fails; give a path on another."
    return f"{what}check this path, and what lies there." if where else ""


def _is_out_of_memory(error: Exception) -> bool:
    """torch has a class of its own for accelerators; for the CPU, as Python for a thread's stack,
    only words.
    """
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator: can't allocate memory" in str(error)
        or str(error) == "can't start new thread"
    )


def _from_rust(error: Exception) -> OSError | None:
    """The OSError that tokenizers and safetensors, written in Rust, tell in words only."""
    is_rust = type(error) is Exception or "safetensors" in type(error).__module__
    found = re.search(r"\(os error (\d+)\)", str(error)) if is_rust else None
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


def told(error: BaseException) -> str:
    """What an error of a library says, as part of one sentence: its first line, with the next where
    that only announces it.
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
    """How the user called this program: train.py, or python -m data_prep."""
    path = Path(sys.argv[0])
    return f"python -m {path.parent.name}" if path.name == "__main__.py" else path.name


def _end(sentence: str) -> None:
    """Say it on one line, whatever a name or a library's words hold, and leave."""
    line = re.sub(r"\s*\n\s*", " ", sentence.strip())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    last_words.say(f"{program_name()}: error: {line}")
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    sys.exit(EXIT_REFUSED)
