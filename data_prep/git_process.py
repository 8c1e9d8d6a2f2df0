"""Runs the git program so that it runs no command that a repository's configuration names, fetches
nothing, and does not mind who owns the repository.

What git is asked for is in data_prep.git_trees.
"""

import errno
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from data_prep.document import Unreadable
from hugcoder.refusal import Refusal

READ_BYTES = 1 << 20
MISSING = "missing_object"
NOT_RUN = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ENOTDIR, errno.ELOOP}
# A partial clone fetches what it lacks when it is asked for it, by a command that its config may
# name. Two locks, because git before 2.39.4 knows only the second.
ENVIRONMENT = {
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",  # no transport has this name
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",  # else a blob is not the one that its name and commit promise
    "LC_ALL": "C",
}
# Commands that a config may name besides those of a remote; reading needs none of them
COMMANDS_OF_A_CONFIG = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.sshCommand": "false",
    "core.gitProxy": "false",
    "core.askPass": "false",
    "core.alternateRefsCommand": "false",
    "credential.helper": "",
    "protocol.allow": "never",
    "gc.auto": "0",
    "maintenance.auto": "false",
}


def _command(git_dir: Path | str, *words: str) -> list[str]:
    # with its folder named, git never takes a repository further up instead of a broken one
    settings = COMMANDS_OF_A_CONFIG | {"safe.directory": str(git_dir)}
    pairs = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return ["git", "--no-pager", f"--git-dir={git_dir}", *pairs, *words]


def start(
    git_dir: Path | str, *words: str, stdin: int | None = None, errors: IO | None = None
) -> subprocess.Popen[bytes]:
    """Args: errors: where git's complaints go; a pipe that nobody reads would stop it."""
    # without our own variables: in a hook of git they name another repository and its objects
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        return subprocess.Popen(
            _command(git_dir, *words),
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors or subprocess.DEVNULL,
            env=inherited | ENVIRONMENT,
        )
    except OSError as error:
        if error.errno not in NOT_RUN:
            raise
        what = "is not installed"
        if error.errno != errno.ENOENT:
            what = f"is a program that may not or cannot be run ({error.strerror})"
        raise Refusal(
            f"sources: git {what}; install it, or use type=folder, which needs none."
        ) from None


def records(git_dir: Path, *words: str) -> Iterator[bytes]:
    """What git writes between NUL bytes (or as its only answer), a block in memory at a time.

    Raises: Unreadable with what git says when it fails.
    """
    with _temporary_file() as errors:
        process = start(git_dir, *words, errors=errors)
        rest = b""
        try:
            while block := process.stdout.read(READ_BYTES):
                *whole, rest = (rest + block).split(b"\0")
                yield from whole
        finally:  # perhaps before git has written all
            process.stdout.close()
            process.wait()
        if process.returncode:
            errors.seek(0)
            raise _unreadable(process.returncode, errors.read(READ_BYTES), git_dir)
        if rest:
            yield rest


def _temporary_file() -> IO[bytes]:
    """An open one. Raises: Refusal when no folder can hold it."""
    try:
        return tempfile.TemporaryFile()
    except FileNotFoundError as error:  # Python names no file then
        raise Refusal(
            f"sources: git's complaints are kept in a temporary file ({error.strerror}); make room "
            "in /tmp, or set TMPDIR to a folder that may be written."
        ) from None


def _unreadable(returncode: int, errors: bytes, git_dir: Path | str) -> Unreadable:
    """Why git failed. Raises: Refusal when it was killed or the disk fails, which is no fault of
    the repository.
    """
    if returncode == -signal.SIGKILL:
        raise Refusal(
            f"sources: git was killed while it read {git_dir}, most likely because memory ran out; "
            "run the same command to go on."
        )
    said = " ".join(errors.decode(errors="replace").split())[-200:]
    if os.strerror(errno.EIO) in said:
        raise Refusal(
            f"sources: reading {git_dir} failed ({os.strerror(errno.EIO)}); see that its disk is "
            "there, then run the same command to go on."
        )
    if "promisor remote" in said or "not allowed" in said:  # a transport is, in our environment
        said = "it is a partial clone and lacks folders of its HEAD; clone it without --filter"
        return Unreadable("unreadable_repository", said)
    if "Needed a single revision" in said:
        return Unreadable("repository_without_commit", "its HEAD names no commit")
    return Unreadable("unreadable_repository", f"git says: {said or returncode}")


def end(process: subprocess.Popen[bytes]) -> int:
    """Wait until git ends, without the rest of its answers; returns its exit status."""
    with suppress(BrokenPipeError):
        process.stdin.close()
    process.stdout.close()
    return process.wait()


class Contents:
    """Objects of one repository, from a git process that is started again when one has ended it."""

    def __init__(self, git_dir: str):
        self._git_dir = git_dir
        self._process: subprocess.Popen[bytes] | None = None

    def load(self, sha: str) -> bytes:
        """The bytes of an object. Raises: Unreadable when git has lost or damaged it."""
        if self._process is None:
            words = ("cat-file", "--batch")
            self._process = start(self._git_dir, *words, stdin=subprocess.PIPE)
        with suppress(BrokenPipeError):  # git has ended, and answers nothing below
            self._process.stdin.write(sha.encode() + b"\n")
            self._process.stdin.flush()
        header = self._process.stdout.readline().split()
        if len(header) == 3:
            size = int(header[2])
            data = self._process.stdout.read(size + 1)
            if len(data) == size + 1:
                return data[:-1]
        elif header:  # "<sha> missing"
            raise Unreadable(MISSING)
        _ = _unreadable(self.close(), b"", self._git_dir)
        raise Unreadable("damaged_object")

    def close(self) -> int:
        process, self._process = self._process, None
        return end(process) if process else 0
