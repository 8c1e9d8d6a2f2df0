"""Which files are evaluated on: held-out ones, the same at every call, spread over repositories.

Repositories take turns, each giving its next file in an order that a hash decides, so that a large
repository counts no more than a small one while both have files left. Holds the choice; spans
inside the files are chosen in `evaluation.spans`.
"""

import hashlib
import logging
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hugcoder.corpus import HELD_OUT, manifest_of, read_corpus
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
    manifest_of(corpus)
    rows = list(read_corpus(corpus, HELD_OUT, _INDEX_COLUMNS))
    fitting = [row for row in rows if 0 < row["size"] <= min(max_file_bytes, max_bytes)]
    if not fitting:
        raise Refusal(
            f"{corpus} has {len(rows)} held-out files and none of 1 to "
            f"{min(max_file_bytes, max_bytes):,} bytes; raise max_file_bytes or max_bytes, or make "
            "the corpus with more held-out repositories."
        )
    chosen: dict[tuple[str, str], None] = {}
    num_bytes = 0
    for row in _taking_turns(fitting, seed):
        if len(chosen) == max_documents:
            break
        if num_bytes + row["size"] <= max_bytes:
            chosen[row["repo"], row["path"]] = None
            num_bytes += row["size"]
    documents = _read(corpus, chosen)
    num_repositories = len({document.repo for document in documents})
    logger.info(
        f"chose {len(documents)} of {len(rows)} files of {corpus}/{HELD_OUT} ({num_bytes:,} bytes, "
        f"{num_repositories} repositories; {len(rows) - len(fitting)} are too large or empty)"
    )
    return documents


def _taking_turns(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Rows in the order in which they are taken."""
    by_repo: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: hash_order(seed, row["blob_sha"], row["path"])):
        by_repo.setdefault(row["repo"], []).append(row)
    repos = sorted(by_repo, key=lambda repo: hash_order(seed, repo))
    rounds = zip_longest(*(by_repo[repo] for repo in repos))
    return [row for turn in rounds for row in turn if row is not None]


def _read(corpus: Path, chosen: dict[tuple[str, str], None]) -> list[Document]:
    """The chosen files, in the order of `chosen`."""
    columns = ("repo", "path", "language", "blob_sha", "content")
    found = {}
    for row in read_corpus(corpus, HELD_OUT, columns):
        key = (row["repo"], row["path"])
        if key in chosen:
            fields = (row[name] for name in ("repo", "path", "language", "blob_sha", "content"))
            found[key] = Document(*fields)
    return [found[key] for key in chosen]
