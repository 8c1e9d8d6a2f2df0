"""The holes that a model is asked to fill: where they are in the chosen files.

`hugcoder.data.holes` draws them in a text. Positions are characters and depend only on the files
and the seed, never on the tokenizer, so that all models are asked the same. Files take turns, so
repositories are balanced as the files are.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from evaluation.documents import Document, hash_order
from hugcoder.data.holes import draw_hole, draw_pair

SHOW, QUIET = "show", "quiet"
Drawn = TypeVar("Drawn")


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
    drawn = _taking_turns(documents, kind, num_spans, seed, lambda t, rng: draw_hole(t, kind, rng))
    return [BenchmarkSpan(kind, document, *span) for document, span in drawn]


def choose_pairs(documents: list[Document], num_spans: int, seed: int) -> list[BenchmarkSpan]:
    """Up to `num_spans` places, as many holes (`show`) as places without one (`quiet`)."""
    drawn = _taking_turns(documents, "pair", num_spans // 2, seed, draw_pair)
    return [
        BenchmarkSpan(kind, document, *span)
        for document, pair in drawn
        for kind, span in ((SHOW, pair.show), (QUIET, pair.quiet))
    ]


def _taking_turns(
    documents: list[Document],
    kind: str,
    num_drawn: int,
    seed: int,
    draw: Callable[[str, np.random.Generator], Drawn | None],
) -> Iterable[tuple[Document, Drawn]]:
    """Draw from one document after another until there are enough, or a turn brings nothing new."""
    found: dict[tuple[int, tuple], tuple[Document, Drawn]] = {}
    for turn in range(num_drawn):
        before = len(found)
        for index, document in enumerate(documents):
            key = hash_order(seed, kind, str(turn), document.blob_sha, document.path)
            rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
            drawn = draw(document.text, rng)
            if drawn and len(found) < num_drawn:
                found.setdefault((index, drawn), (document, drawn))
        if len(found) in (before, num_drawn):
            break
    return found.values()


def digest(spans: list[BenchmarkSpan]) -> str:
    """A hash that two evaluations share if and only if they had the same holes."""
    lines = [f"{s.kind} {s.document.blob_sha} {s.document.path} {s.start} {s.stop}" for s in spans]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
