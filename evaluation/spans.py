"""The holes that a model is asked to fill: where they are in the chosen files.

single_line: from behind a line's indentation to its end. multi_line: the same over 2 to 10 lines.
random: 1 to 256 characters from anywhere, log-uniform in length. Positions are characters and
depend only on the files and the seed, never on the tokenizer, so that all models are asked the
same. Files take turns, so repositories are balanced as the files are.
"""

import hashlib
from dataclasses import dataclass
from itertools import islice

import numpy as np

import fim
from evaluation.documents import Document, hash_order

KINDS = ("single_line", "multi_line", "random")
MAX_LINES = 10
MAX_CHARACTERS = 400  # of a line span: what fits max_new_tokens 128 at about 3 characters a token
MIN_CHARACTERS = 3  # of a line: closing brackets alone would be points for nothing
TRIES = 20
_SHORT = fim.SpanMix(random=0, short=1, line=0, empty=0)


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
    spans: dict[tuple[int, int, int], BenchmarkSpan] = {}
    for turn in range(num_spans):
        before = len(spans)
        for index, document in enumerate(documents):
            span = _draw(document, kind, turn, seed)
            if span and len(spans) < num_spans:
                spans.setdefault((index, *span), BenchmarkSpan(kind, document, *span))
        if len(spans) in (before, num_spans):
            break
    return list(spans.values())


def digest(spans: list[BenchmarkSpan]) -> str:
    """A hash that two evaluations share if and only if they had the same holes."""
    lines = [f"{s.kind} {s.document.blob_sha} {s.document.path} {s.start} {s.stop}" for s in spans]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _draw(document: Document, kind: str, turn: int, seed: int) -> fim.Span | None:
    """One usable hole, or None when a file gives none."""
    key = hash_order(seed, kind, str(turn), document.blob_sha, document.path)
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    candidates = (_candidate(document.text, kind, rng) for _ in range(TRIES))
    usable = (span for span in candidates if span and _is_usable(document.text, span))
    return next(islice(usable, 1), None)


def _is_usable(text: str, span: fim.Span) -> bool:
    """Whether there is text before the hole, to predict it from, and more than blanks in it."""
    middle = text[span.start : span.stop]
    return span.start > 0 and len(middle) <= MAX_CHARACTERS and middle.strip() != ""


def _candidate(text: str, kind: str, rng: np.random.Generator) -> fim.Span | None:
    if kind == "random":
        return fim.draw_span(text, rng, _SHORT)
    num_lines = 1 if kind == "single_line" else int(rng.integers(2, MAX_LINES + 1))
    return _lines(text, rng, num_lines)


def _lines(text: str, rng: np.random.Generator, num_lines: int) -> fim.Span | None:
    """Whole lines from a random one on, without the first indentation and the last newline."""
    lines = text.split("\n")
    if len(lines) < num_lines:
        return None
    first = int(rng.integers(0, len(lines) - num_lines + 1))
    taken = lines[first : first + num_lines]
    if min(len(taken[0].strip()), len(taken[-1].strip())) < MIN_CHARACTERS:
        return None
    line_start = sum(len(line) + 1 for line in lines[:first])
    start = line_start + len(taken[0]) - len(taken[0].lstrip())
    stop = line_start + len("\n".join(taken)) - taken[-1].endswith("\r")
    return fim.Span(start, stop)
