"""Writes files that are either whole or absent: temporary names, renames, manifests of folders.

Also writes files of JSON lines by step, which a resumed run cuts back.
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
    """Yield a temporary path; rename it to `path` after success, delete it after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:  # a failed write does not name the file
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


ROOM_NEEDED = 64 << 20  # bytes; with less free room, a full disk explains a failed write


@contextmanager
def full_disk_shown(folder: Path) -> Iterator[None]:
    """Turn the errors that torch and safetensors raise on a full disk into an OSError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or shutil.disk_usage(folder).free > ROOM_NEEDED:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error


def set_usual_mode(path: Path) -> None:
    """Give a file the mode that the umask gives new files.

    safetensors leaves 0600, so nobody else in the group could read the weights.
    """
    mode = 0o666 & ~umask()
    if stat.S_IMODE(path.stat().st_mode) != mode:  # some file systems cannot set modes
        path.chmod(mode)


def umask() -> int:
    """Read this process's umask; os.umask could only read it by changing it for all threads."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^Umask:\s*(\d+)", status, re.MULTILINE)[1], 8)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with atomic(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder, or None when the folder is not complete.

    Raises: Refusal when the manifest is damaged.
    """
    path = folder / MANIFEST
    return read_object(path) if path.is_file() else None


def read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file. Raises: Refusal when the file holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested too deeply
        raise Refusal(f"{path} is damaged ({error}); make it again or remove it.") from None
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise Refusal(f"{path} is damaged (a {kind}, not an object); make it again or remove it.")
    return value


@contextmanager
def keys_demanded(folder: Path, name: str = MANIFEST) -> Iterator[None]:
    """Turn errors about missing or wrong entries of a manifest into a Refusal naming the file."""
    try:
        yield
    except Refusal:  # it is a ValueError too
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Refusal(
            f"{folder / name} is damaged (it lacks what it must say: {error}); make the folder "
            "again or copy it again."
        ) from None


@contextmanager
def format_demanded(path: Path, name: str) -> Iterator[None]:
    """Turn pyarrow's errors about a damaged file into a Refusal that names the file.

    Args: name: the format that the file must have.
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
    """Drop the lines after `step` from a file of JSON lines, if the file exists.

    Args: closing: drop lines at `step` too, if they hold a name that begins with one of these.
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
    """Return the step of a line; infinity for a torn last line."""
    try:
        return json.loads(line)["step"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return float("inf")


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
