"""The held-out files that are scored: the same at every call, spread over repositories.

Repositories (or folders, as the corpus holds out) take turns, and each gives its next file in the
order of a hash. So a large repository counts no more than a small one while both have files left.
Holes in the files are chosen in `evaluation.spans`.
"""

import hashlib
import logging
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hugcoder.data.corpus import (
    HELD_OUT,
    REPOSITORY,
    held_out_by,
    manifest_of,
    plural_of,
    read_corpus,
    unit_of,
)
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

_INDEX_COLUMNS = ("repo", "path", "language", "blob_sha", "size")


@dataclass(frozen=True)
class Document:
    """One held-out file."""

    repo: str
    path: str
    language: str
    blob_sha: str
    text: str
    held_out_by: str = REPOSITORY

    @property
    def unit(self) -> str:
        """The repository, folder or file that was held out as a whole; intervals are over these."""
        return unit_of(self.repo, self.path, self.held_out_by)


def hash_order(seed: int, *keys: str) -> bytes:
    """A sort key that looks random and depends only on its input."""
    return hashlib.blake2b("\0".join([str(seed), *keys]).encode(), digest_size=16).digest()


def choose_documents(
    corpus: Path, max_documents: int, max_bytes: int, max_file_bytes: int, seed: int
) -> list[Document]:
    """Choose held-out files: at most max_documents, with at most max_bytes together.

    Raises: Refusal when `corpus` is no corpus, or no held-out file is small enough.
    """
    by = held_out_by(manifest_of(corpus))
    rows = list(read_corpus(corpus, HELD_OUT, _INDEX_COLUMNS))
    if not rows:
        raise Refusal(
            f"{corpus} holds nothing out, so there is nothing to evaluate on; "
            "make the corpus with `python -m data_prep` and --held_out NAME "
            "or --held_out_repositories 1 (of one repository with --held_out_by folder or file), "
            "or give --corpus one that does."
        )
    most = min(max_file_bytes, max_bytes)
    fitting = [row for row in rows if 0 < row["size"] <= most]
    if not fitting:
        raise Refusal(
            f"{corpus} has {len(rows)} held-out files and none of 1 to {most:,} bytes; "
            "raise max_file_bytes or max_bytes, "
            f"or make the corpus with more held-out {plural_of(by)} (--held_out_fraction 0.2)."
        )
    chosen: dict[tuple[str, str], None] = {}
    num_bytes = 0
    for row in _taking_turns(fitting, by, seed):
        if len(chosen) == max_documents:
            break
        if num_bytes + row["size"] <= max_bytes:
            chosen[row["repo"], row["path"]] = None
            num_bytes += row["size"]
    documents = _read(corpus, chosen, by)
    num_units = len({document.unit for document in documents})
    size = f"{num_bytes:,} bytes, {num_units} {plural_of(by)}"
    others = f"{len(rows) - len(fitting)} are too large or empty"
    files = f"{len(documents)} of {len(rows)} files of {corpus}/{HELD_OUT}"
    logger.info(f"chose {files} ({size}; {others})")
    return documents


def _taking_turns(rows: list[dict[str, Any]], by: str, seed: int) -> list[dict[str, Any]]:
    """Rows in the order in which they are taken."""
    by_unit: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: hash_order(seed, row["blob_sha"], row["path"])):
        by_unit.setdefault(unit_of(row["repo"], row["path"], by), []).append(row)
    units = sorted(by_unit, key=lambda unit: hash_order(seed, unit))
    rounds = zip_longest(*(by_unit[unit] for unit in units))
    return [row for turn in rounds for row in turn if row is not None]


def _read(corpus: Path, chosen: dict[tuple[str, str], None], by: str) -> list[Document]:
    """The chosen files, in the order of `chosen`."""
    columns = ("repo", "path", "language", "blob_sha", "content")
    found = {}
    for row in read_corpus(corpus, HELD_OUT, columns):
        key = (row["repo"], row["path"])
        if key in chosen:
            found[key] = Document(*(row[name] for name in columns), held_out_by=by)
    return [found[key] for key in chosen]
