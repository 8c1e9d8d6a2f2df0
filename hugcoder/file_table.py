"""A folder beside its table of files: name -> {"bytes": size, "sha256": hash of the content}.

Manifests of checkpoints, corpora, token stores and tokenizers hold such a table. Holds the making
of one and the three ways in which a folder can differ from it. A table that was made before sizes
were kept lacks them, and what it lacks is not compared.
"""

import hashlib
import os
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HASHING_THREADS = 8  # hashlib gives the GIL back; about 1 to 2 GB/s a core with SHA instructions

FileTable = dict[str, dict[str, Any]]


def hash_files(folder: Path, names: Iterable[str]) -> FileTable:
    """Size and SHA-256 of each file, after it has reached the disk."""

    def facts_of(name: str) -> tuple[str, dict[str, Any]]:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return name, {"bytes": file.tell(), "sha256": digest}

    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        return dict(threads.map(facts_of, names))


def missing_or_resized(folder: Path, table: FileTable) -> str:
    """The first file that is not there or has another size, as `x has 5 bytes, not 6`; "" = none.

    Reads no file.
    """
    for name, facts in table.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        size = (folder / name).stat().st_size
        said = facts.get("bytes", size)
        if size != said:
            number = f"{said:,}" if isinstance(said, int) else repr(said)
            return f"{name} has {size:,} bytes, not {number}"
    return ""


def changed(folder: Path, table: FileTable) -> str:
    """The first file of those with a hash in the table that has another one; "" = none.

    Reads every file, all of which must be there.
    """
    hashed = [name for name, facts in table.items() if "sha256" in facts]
    now = hash_files(folder, hashed)
    for name in hashed:
        if now[name]["sha256"] != table[name]["sha256"]:
            return f"{name} has changed since it was written (its SHA-256 differs)"
    return ""


def stranger(folder: Path, subfolders: Iterable[str], known: Collection[str]) -> str:
    """The first file of some subfolders that is not known, as `a/x is a file too many`; "" = none.

    Hidden ones do not count: file managers and file systems leave theirs everywhere.
    """
    for subfolder in subfolders:
        there = (folder / subfolder).iterdir() if (folder / subfolder).is_dir() else ()
        for path in sorted(there):
            name = f"{subfolder}/{path.name}"
            if name not in known and not path.name.startswith("."):
                return f"{name} is a file too many"
    return ""
