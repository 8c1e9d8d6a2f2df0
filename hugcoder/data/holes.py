"""Draws the holes that a model is scored on, in a text: real ones, and places where nothing is
missing.

single_line: from behind a line's indentation to its end. multi_line: the same over 2 to 10 lines.
random: 1 to 256 characters from anywhere, log-uniform in length. short: 1 to 8 characters from
anywhere. Positions are characters; they depend on the text and the random stream, never on a
tokenizer. What training rearranges is drawn by `fim.draw_span`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

import fim

KINDS = ("single_line", "multi_line", "random", "short")
SHOW, QUIET = PAIRS = ("show", "quiet")  # the fields of Pair
UNIT_LENGTHS = (64, 128, 200)  # tokens of the units that ask for an end, short as editors' prompts
MAX_LINES = 10
MAX_CHARACTERS = 400  # of a hole: what fits 128 new tokens at about 3 characters a token
MIN_CHARACTERS = 3  # of a line: closing brackets alone would be points for nothing
SHORT_CHARACTERS = 8
TRIES = 20
_LOG_UNIFORM = fim.SpanMix(random=0, short=1, line=0, empty=0)
_SHOWN = fim.SpanMix(random=0, short=1, line=1, empty=0)


Drawn = TypeVar("Drawn")


def take_turns(
    texts: Sequence[str],
    num_drawn: int,
    draw: Callable[[str, np.random.Generator], Drawn | None],
    stream: Callable[[int, int], np.random.Generator],
) -> list[tuple[int, Drawn]]:
    """Draw from one text after another until there are enough, or a turn brings nothing new.

    Args: stream: (index of the text, turn) -> its random stream.
    Returns: different ones only, each with the index of its text.
    """
    found: dict[tuple[int, Drawn], None] = {}
    for turn in range(num_drawn):
        before = len(found)
        for index, text in enumerate(texts):
            drawn = draw(text, stream(index, turn))
            if drawn and len(found) < num_drawn:
                found[index, drawn] = None
        if len(found) in (before, num_drawn):
            break
    return list(found)


def draw_hole(text: str, rng: np.random.Generator, kind: str) -> fim.Span | None:
    """Draw one usable hole of a kind; None when the text gives none in a few tries."""
    for _ in range(TRIES):
        span = _candidate(text, kind, rng)
        if span and _is_usable(text, span):
            return span
    return None


def _candidate(text: str, kind: str, rng: np.random.Generator) -> fim.Span | None:
    if kind == "random":
        return fim.draw_span(text, rng, _LOG_UNIFORM)
    if kind == "short":
        start = int(rng.integers(0, max(len(text), 1)))
        return fim.Span(start, min(start + int(rng.integers(1, SHORT_CHARACTERS + 1)), len(text)))
    num_lines = 1 if kind == "single_line" else int(rng.integers(2, MAX_LINES + 1))
    return _lines(text, rng, num_lines)


def _is_usable(text: str, span: fim.Span) -> bool:
    """Tell whether text stands before the hole, to predict it from, and more than blanks in it."""
    middle = text[span.start : span.stop]
    return span.start > 0 and len(middle) <= MAX_CHARACTERS and middle.strip() != ""


def _lines(text: str, rng: np.random.Generator, num_lines: int) -> fim.Span | None:
    """Draw whole lines, without the first indentation and the last newline."""
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


class Pair(NamedTuple):
    """Holds two places of a text that look alike to whoever sees one character on each side.

    show: a hole, made by leaving out text; it should be filled. quiet: an empty span, where nothing
    is missing.
    """

    show: fim.Span
    quiet: fim.Span


def draw_pair(text: str, rng: np.random.Generator) -> Pair | None:
    """Draw a hole, and a place where its two neighbouring characters stand side by side.

    The hole is a short one or a line's rest, as training draws them (`fim.SpanMix`). A rule that
    looks at the last character before a place and the first behind it cannot tell the two apart.
    Most places where nothing is missing are inside words, and most holes end at a line's end, so
    without the pairing such a rule would be right most of the time.

    Returns: None when the text gives no such pair in a few tries.
    """
    for _ in range(TRIES):
        show = fim.draw_span(text, rng, _SHOWN)
        if show.start == 0 or show.stop == len(text) or not _is_usable(text, show):
            continue
        neighbours = text[show.start - 1] + text[show.stop]
        places = [
            place
            for place in _occurrences(text, neighbours)
            if not show.start <= place + 1 <= show.stop
        ]
        if places:
            cut = places[int(rng.integers(0, len(places)))] + 1
            return Pair(show, fim.Span(cut, cut))
    return None


def _occurrences(text: str, part: str) -> list[int]:
    """List where `part` begins in the text, overlapping ones too."""
    found, place = [], text.find(part)
    while place >= 0:
        found.append(place)
        place = text.find(part, place + 1)
    return found
