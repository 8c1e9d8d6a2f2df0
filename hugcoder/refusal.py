"""User mistakes: one sentence on the terminal, exit code 2, no traceback.

Holds the exception that carries such a sentence and the wrapper every entry point runs its main()
in.
"""

import errno
import functools
import os
import sys
from collections.abc import Callable

DISK_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EROFS,
    errno.EPERM,
    errno.EFBIG,
    errno.ENAMETOOLONG,
}


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
            if error.errno not in DISK_ERRORS:
                raise
            where = f" ({error.filename})" if error.filename else ""
            _end(
                f"{os.strerror(error.errno)}{where}. Make room or give another folder, then run "
                f"the same command."
            )
        except KeyboardInterrupt:
            sys.exit(130)

    return wrapped


def _end(sentence: str) -> None:
    sys.stderr.write(f"{os.path.basename(sys.argv[0])}: error: {sentence}\n")
    sys.exit(2)
