"""Files that are whole or not there: temporary names, renames, and folders that a manifest
completes. Also files of JSON lines by step, which a resumed run cuts back.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hugcoder.refusal import BROKEN_DISK, NO_ACCESS, NO_ROOM, Refusal

MANIFEST = "manifest.json"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well, delete it
    when it does not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:  # a write that fails does not say where
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


ROOM_NEEDED = 64 << 20  # bytes; less free room than this explains a write that failed


@contextmanager
def full_disk_shown(folder: Path) -> Iterator[None]:
    """Turn the errors with which torch and safetensors meet a full disk into the OSError it is."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or shutil.disk_usage(folder).free > ROOM_NEEDED:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error


def set_usual_mode(path: Path) -> None:
    """Give a file the mode that the umask gives new ones; safetensors leaves 0600, so that nobody
    else in the group could read the weights.
    """
    mode = 0o666 & ~umask()
    if stat.S_IMODE(path.stat().st_mode) != mode:  # file systems without modes have nothing to set
        path.chmod(mode)


def umask() -> int:
    """This process's; os.umask would have to change it, for all threads, to tell it."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^Umask:\s*(\d+)", status, re.MULTILINE)[1], 8)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with atomic(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete folder, or None when the folder is not complete.

    Raises: Refusal when it is damaged.
    """
    path = folder / MANIFEST
    return read_object(path) if path.is_file() else None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds. Raises: Refusal when it holds none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # neither UTF-8 nor JSON, or brackets for ever
        raise Refusal(f"{path} is damaged ({error}); make it again or remove it.") from None
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise Refusal(f"{path} is damaged (a {kind}, no JSON object); make it again or remove it.")
    return value


@contextmanager
def keys_demanded(folder: Path, name: str = MANIFEST) -> Iterator[None]:
    """Turn the errors of looking up what a manifest lacks into a sentence that names the file."""
    try:
        yield
    except Refusal:  # a ValueError too
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Refusal(
            f"{folder / name} is damaged (it lacks what it must say: {error}); make the folder "
            "again or copy it again."
        ) from None


@contextmanager
def format_demanded(path: Path, name: str) -> Iterator[None]:
    """Turn what pyarrow raises over a damaged file into a sentence that names it.

    Args: name: of the format that the file must have.
    """
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM | NO_ACCESS | BROKEN_DISK:
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise Refusal(
            f"{path} cannot be read as {name} ({reason}): it was cut or changed, or is another "
            "file; remove it and make it again, or copy it again."
        ) from None


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Add a line to a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")


def cut_back(path: Path, step: int, closing: tuple[str, ...] = ()) -> None:
    """Keep the lines of a file of JSON lines, if it is there, that do not lie after `step`.

    Args: closing: how names begin whose lines at `step` itself go too.
    """
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        if closing:
            kept = [line for line in kept if _step_of(line) < step or not _has(line, closing)]
        with atomic(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _has(line: str, beginnings: tuple[str, ...]) -> bool:
    return any(name.startswith(beginnings) for name in json.loads(line))


def _step_of(line: str) -> float:
    """The step of a line; a torn last line counts as infinitely late."""
    try:
        return json.loads(line)["step"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return float("inf")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
