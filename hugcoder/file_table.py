"""Compares a folder with its table of files: name -> {"bytes": size, "sha256": content hash}.

Manifests of checkpoints, corpora, token stores and tokenizers hold such a table. This file makes
one and finds the three ways in which a folder can differ from it. Old tables have no sizes; what a
table lacks is not compared.
"""

import hashlib
import os
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HASHING_THREADS = 8  # hashlib releases the GIL; about 1 to 2 GB/s a core with SHA instructions

FileTable = dict[str, dict[str, Any]]


def hash_files(folder: Path, names: Iterable[str]) -> FileTable:
    """Return size and SHA-256 of each file, after it has reached the disk."""

    def facts_of(name: str) -> tuple[str, dict[str, Any]]:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return name, {"bytes": file.tell(), "sha256": digest}

    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        return dict(threads.map(facts_of, names))


def missing_or_resized(folder: Path, table: FileTable) -> str:
    """Name the first file that is missing or has another size, as `x has 5 bytes, not 6`.

    Returns "" when there is none. Reads no contents.
    """
    for name, facts in table.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        size = (folder / name).stat().st_size
        expected = facts.get("bytes", size)
        if size != expected:
            number = f"{expected:,}" if isinstance(expected, int) else repr(expected)
            return f"{name} has {size:,} bytes, not {number}"
    return ""


def changed(folder: Path, table: FileTable) -> str:
    """Name the first file whose hash differs from the one in the table; "" when there is none.

    Reads every file that has a hash in the table; all of them must exist.
    """
    hashed = [name for name, facts in table.items() if "sha256" in facts]
    now = hash_files(folder, hashed)
    for name in hashed:
        if now[name]["sha256"] != table[name]["sha256"]:
            return f"{name} has changed since it was written (its SHA-256 differs)"
    return ""


def unknown_file(folder: Path, subfolders: Iterable[str], known: Collection[str]) -> str:
    """Name the first unknown file in some subfolders, as `a/x is a file too many`; "" = none.

    Hidden files do not count: file managers and file systems leave theirs everywhere.
    """
    for subfolder in subfolders:
        there = (folder / subfolder).iterdir() if (folder / subfolder).is_dir() else ()
        for path in sorted(there):
            name = f"{subfolder}/{path.name}"
            if name not in known and not path.name.startswith("."):
                return f"{name} is a file too many"
    return ""
