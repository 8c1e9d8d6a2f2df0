"""Which files are evaluated on: held-out ones, the same at every call, spread over repositories.

Repositories (or folders, as the corpus holds out) take turns, each giving its next file in an order
that a hash decides, so that a large repository counts no more than a small one while both have
files left. Holds the choice; spans inside the files are chosen in `evaluation.spans`.
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
        """What was held out as a whole and has this file: intervals are taken over such."""
        return unit_of(self.repo, self.path, self.held_out_by)

    @property
    def num_bytes(self) -> int:
        return len(self.text.encode())


def hash_order(seed: int, *keys: str) -> bytes:
    """A sort key that looks random and depends on its input alone."""
    return hashlib.blake2b("\0".join([str(seed), *keys]).encode(), digest_size=16).digest()


def choose_documents(
    corpus: Path, max_documents: int, max_bytes: int, max_file_bytes: int, seed: int
) -> list[Document]:
    """Choose files of held-out repositories, at most so many and so many bytes together.

    Raises: Refusal when `corpus` is none or no held-out file is small enough.
    """
    by = held_out_by(manifest_of(corpus))
    rows = list(read_corpus(corpus, HELD_OUT, _INDEX_COLUMNS))
    if not rows:
        raise Refusal(
            f"{corpus} holds nothing out, so there is nothing to evaluate on; make the corpus with "
            "`python -m data_prep` and --held_out NAME or --held_out_repositories 1 (of one "
            "repository with --held_out_by folder or file), or give --corpus one that does."
        )
    fitting = [row for row in rows if 0 < row["size"] <= min(max_file_bytes, max_bytes)]
    if not fitting:
        raise Refusal(
            f"{corpus} has {len(rows)} held-out files and none of 1 to "
            f"{min(max_file_bytes, max_bytes):,} bytes; raise max_file_bytes or max_bytes, or make "
            f"the corpus with more held-out {plural_of(by)} (--held_out_fraction 0.2)."
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
    logger.info(
        f"chose {len(documents)} of {len(rows)} files of {corpus}/{HELD_OUT} ({num_bytes:,} bytes, "
        f"{num_units} {plural_of(by)}; {len(rows) - len(fitting)} are too large or empty)"
    )
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
