"""The holes that a model is asked to fill: where they are in the chosen files.

`hugcoder.data.holes` draws them in a text. Positions are characters and depend only on the files
and the seed, never on the tokenizer, so that all models are asked the same. Files take turns, so
repositories are balanced as the files are.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from evaluation.documents import Document, hash_order
from hugcoder.data.holes import QUIET, SHOW, draw_hole, draw_pair, take_turns

if TYPE_CHECKING:
    from hugcoder.generation.loading import CheckpointCodec


@dataclass(frozen=True)
class BenchmarkSpan:
    """One hole: characters start to stop of a document."""

    kind: str
    document: Document
    start: int
    stop: int

    @property
    def prefix(self) -> str:
        return self.document.text[: self.start]

    @property
    def truth(self) -> str:
        return self.document.text[self.start : self.stop]

    @property
    def suffix(self) -> str:
        return self.document.text[self.stop :]


def choose_spans(
    documents: list[Document], kind: str, num_spans: int, seed: int
) -> list[BenchmarkSpan]:
    """Up to `num_spans` different holes of one kind; fewer when the files have no more."""
    draw = partial(draw_hole, kind=kind)
    drawn = take_turns(_texts(documents), num_spans, draw, _streams(documents, kind, seed))
    return [BenchmarkSpan(kind, documents[index], *span) for index, span in drawn]


def choose_pairs(documents: list[Document], num_spans: int, seed: int) -> list[BenchmarkSpan]:
    """Up to `num_spans` places, as many holes (`show`) as places without one (`quiet`)."""
    streams = _streams(documents, "pair", seed)
    drawn = take_turns(_texts(documents), num_spans // 2, draw_pair, streams)
    return [
        BenchmarkSpan(kind, documents[index], *span)
        for index, pair in drawn
        for kind, span in ((SHOW, pair.show), (QUIET, pair.quiet))
    ]


def _texts(documents: list[Document]) -> list[str]:
    return [document.text for document in documents]


def _streams(
    documents: list[Document], kind: str, seed: int
) -> Callable[[int, int], np.random.Generator]:
    def stream(index: int, turn: int) -> np.random.Generator:
        document = documents[index]
        key = hash_order(seed, kind, str(turn), document.blob_sha, document.path)
        return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))

    return stream


class SpanIds(NamedTuple):
    """The tokens around and in a hole, as many as a context takes.

    `last` is the token before it, which an answer writes again, and `answer` what it then writes
    (`hugcoder.data.healing`).
    """

    prefix: list[int]
    middle: list[int]
    suffix: list[int]
    last: list[int]
    answer: list[int]


@lru_cache(maxsize=10_000)
def ids_of(codec: "CheckpointCodec", span: BenchmarkSpan, context: int) -> SpanIds:
    """Encode a hole once for all that is measured on it; files are long and contexts short."""
    prefix, middle, suffix = codec.encode([span.prefix, span.truth, span.suffix])
    last = codec.healing.heal(prefix).last
    answer = codec.healing.written(span.prefix, span.truth, last)
    return SpanIds(prefix[-context:], middle, suffix[:context], last, answer)


def digest(spans: list[BenchmarkSpan]) -> str:
    """A hash that two evaluations share if and only if they had the same holes."""
    lines = [f"{s.kind} {s.document.blob_sha} {s.document.path} {s.start} {s.stop}" for s in spans]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
