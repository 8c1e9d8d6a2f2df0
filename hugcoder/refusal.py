"""User mistakes: one sentence on the terminal, exit code 2, no traceback.

Holds the exception that carries such a sentence, the wrapper every entry point runs its main() in,
and the exit codes that a program which starts another one may rely on.
"""

import errno
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

from hugcoder import last_words

EXIT_REFUSED = 2  # starting again is of no use before the user has done what the sentence says
EXIT_STOPPED = 75  # stopped on request with a complete checkpoint; start again to go on
EXIT_HUNG = 76  # nothing moved for hang_timeout_minutes; the stacks are in the run folder

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_ACCESS = {errno.EACCES, errno.EROFS, errno.EPERM}


class Refusal(ValueError):
    """A mistake the user can repair: the message says what was given, what is allowed and what to
    do.
    """


def entry_point(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a main() so that a Refusal or a full or read-only disk ends in one sentence and exit
    code 2.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except Refusal as refusal:
            _end(str(refusal))
        except BrokenPipeError:  # the reader of our output (head, less) went away
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except OSError as error:
            _end(_sentence_for(error))
        except KeyboardInterrupt:
            sys.exit(130)

    return wrapped


def _sentence_for(error: OSError) -> str:
    """What to do about a full or forbidden disk; any other error goes on as it is."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in NO_ROOM:
        return f"{os.strerror(error.errno)}{where}: make room, then run the same command to go on."
    if error.errno in NO_ACCESS:
        return f"{os.strerror(error.errno)}{where}: give a folder that may be read and written."
    raise error


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
    last_words.say(f"{program_name()}: error: {sentence}")
    sys.exit(EXIT_REFUSED)
