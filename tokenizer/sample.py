"""Samples a corpus so that all languages have the same weight.

Every language gives the same number of bytes. A language that has less gives everything, and the
others share the rest. The choice of files depends on (seed, blob sha) alone, not on shards, their
order or workers. The first pass reads sizes, the second streams the chosen contents.
"""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hugcoder.data.corpus import HELD_OUT, read_corpus
from hugcoder.refusal import Refusal


@dataclass(frozen=True)
class SamplePlan:
    """Says which documents of one split are taken.

    thresholds: language -> the highest draw that is taken. num_bytes: language -> bytes of the
    documents taken, each counted up to max_document_bytes.
    """

    corpus: Path
    split: str
    seed: int
    max_document_bytes: int
    thresholds: dict[str, float]
    num_bytes: dict[str, int]

    @property
    def total_bytes(self) -> int:
        return sum(self.num_bytes.values())


def draw(seed: int, blob_sha: str) -> float:
    """Return a number in [0, 1) that depends on the seed and the blob alone."""
    digest = hashlib.blake2b(f"{seed},{blob_sha}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def fair_shares(available: dict[str, int], total: int) -> dict[str, int]:
    """Share `total` bytes equally; a language with less gives everything, the others the rest.

    Returns: language -> bytes. They sum to `total` (less rounding), or to all bytes available.
    """
    shares: dict[str, int] = {}
    left = total
    for count, language in enumerate(sorted(available, key=lambda name: (available[name], name))):
        shares[language] = min(available[language], left // (len(available) - count))
        left -= shares[language]
    return shares


def plan_sample(
    corpus: Path, split: str, num_bytes: int, max_document_bytes: int, seed: int
) -> SamplePlan:
    """Choose documents of about `num_bytes` bytes, balanced over languages.

    Each language takes documents in the order of their draws until its share is reached, so the
    last document may exceed the share.

    Raises: Refusal when the split is empty.
    """
    draws: dict[str, array] = {}
    sizes: dict[str, array] = {}
    for row in read_corpus(corpus, split, ("language", "blob_sha", "size")):
        draws.setdefault(row["language"], array("d")).append(draw(seed, row["blob_sha"]))
        sizes.setdefault(row["language"], array("q")).append(min(row["size"], max_document_bytes))
    shares = fair_shares({language: sum(sizes[language]) for language in sizes}, num_bytes)
    if not any(shares.values()):
        way_out = "curate more repositories"
        if split == HELD_OUT:
            way_out = "give --split train, or a corpus with held-out documents"
        raise Refusal(f"the {split} split of {corpus} holds no text to sample; {way_out}.")
    thresholds, planned = {}, {}
    for language, share in sorted(shares.items()):
        order = np.argsort(draws[language], kind="stable")
        reached = np.cumsum(np.asarray(sizes[language])[order])
        last = min(int(np.searchsorted(reached, share)), len(order) - 1)
        thresholds[language] = draws[language][order[last]]
        planned[language] = int(reached[last])
    return SamplePlan(corpus, split, seed, max_document_bytes, thresholds, planned)


def read_sample(plan: SamplePlan) -> Iterator[tuple[str, str]]:
    """Yield (language, text) of each document of the plan, in the order of the corpus."""
    columns = ("language", "blob_sha", "content")
    for row in read_corpus(plan.corpus, plan.split, columns):
        if draw(plan.seed, row["blob_sha"]) <= plan.thresholds[row["language"]]:
            yield row["language"], head(row["content"], plan.max_document_bytes)


def head(text: str, max_bytes: int) -> str:
    """Return the first `max_bytes` bytes of a text, without a code point that is cut in two."""
    if len(text) * 4 <= max_bytes:  # a code point has at most 4 bytes
        return text
    return text.encode("utf-8")[:max_bytes].decode("utf-8", errors="ignore")
