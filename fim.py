"""Fill-in-the-middle: pure functions over text and token ids.

A piece of a document is split at characters into prefix, middle and suffix, and rearranged so that
a left-to-right model learns to produce the middle from both sides (Bavarian et al. 2022, arXiv
2207.14255). Two orders are used, PSM and SPM, and of SPM two variants, see SPM_ORDERS. Everything
is stateless: the random stream of a piece is a function of (seed, epoch, document, piece), never of
a worker, a rank or an order.

Holds no torch, no tokenizer and no file access. `hugcoder.data.fim_formats` holds the sentinels of
the known model families. Training, evaluation, generation and serving all use this module.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import NamedTuple

import numpy as np

# Turns texts into their ids; special tokens in a text stay plain text.
Encode = Callable[[list[str]], list[list[int]]]

# The variants of SPM, in the letters of FimFormat. In variant 1 (Mellum, llama.cpp's --spm-infill)
# the sentinel stands where the middle begins. Variant 2 (StarCoder, Code Llama;
# bigcode-project/Megatron-LM) is PSM with an empty prefix: prefix and middle are one text, and a
# model must see from the suffix alone where the middle ends.
SPM_ORDERS = {1: "sSpPmM", 2: "psSmPM"}
FAMILY_VARIANT = 2  # of all families in hugcoder.data.fim_formats


@dataclass(frozen=True)
class FimFormat:
    """Says how one model family spells fill-in-the-middle.

    `psm` and `spm` are orders, one letter for each part: p, s, m are the sentinels for prefix,
    suffix and middle; P, S, M are the texts. M comes last, so everything before it is the prompt.
    A family without a middle sentinel leaves out m.
    """

    name: str
    prefix: str
    suffix: str
    middle: str
    end: str
    pad: str = ""
    repo_name: str = ""
    file_separator: str = ""
    stops: tuple[str, ...] = ()
    psm: str = "pPsSmM"
    spm: str = SPM_ORDERS[FAMILY_VARIANT]


@dataclass(frozen=True)
class FimIds:
    """Joins a FimFormat with the ids of one tokenizer.

    sentinels: the id of each letter p, s, m. A model reads them, and never learns or writes them.
    end: closes a middle. stops: ids that end a text (`end`, and ids that can only follow one).
    """

    format: FimFormat
    sentinels: Mapping[str, int]
    end: int
    stops: frozenset[int]

    def with_spm_variant(self, variant: int) -> "FimIds":
        """Return the same with the SPM order of a variant, which a model was trained in."""
        return replace(self, format=replace(self.format, spm=SPM_ORDERS[variant]))

    def arrange(
        self, order: str, prefix: list[int], suffix: list[int], middle: list[int]
    ) -> list[int]:
        """Return the ids of `order` (such as "pPsSmM"), middle included, without the end token."""
        parts = {"P": prefix, "S": suffix, "M": middle}
        ids: list[int] = []
        for letter in order:
            ids += parts[letter] if letter in parts else [self.sentinels[letter]]
        return ids

    def prompt(self, prefix: list[int], suffix: list[int], mode: str = "psm") -> list[int]:
        """Return the ids after which the model writes the middle."""
        return self.arrange(getattr(self.format, mode), prefix, suffix, [])


class Span(NamedTuple):
    """Marks the middle of a text: characters start to stop."""

    start: int
    stop: int


@dataclass(frozen=True)
class SpanMix:
    """Says how often each kind of middle is drawn; the weights need not sum to 1.

    random: two uniform cuts, as in the paper. short: 1 to 256 characters, log-uniform, the length
    editors ask for. line: from a cursor in or at the start of a line to the end of that line or of
    one of the next seven. one_line: the same to the end of that line alone. empty: nothing to
    insert, anywhere. line_end: nothing to insert, at the end of a line. Most middles are lines and
    short ones: a random middle is 35 % of the unit on average, longer than anybody asks for, and
    can end anywhere, so it teaches little about ends (benchmarks/quickstart_cpu.md).
    """

    random: float = 0.1
    short: float = 0.3
    line: float = 0.57
    empty: float = 0.03
    one_line: float = 0.0
    line_end: float = 0.0

    def __post_init__(self) -> None:
        if min(self.weights) < 0 or sum(self.weights) <= 0:
            raise ValueError(
                f"the fim_spans weights {self.weights} must be at least 0 and not all 0."
            )

    @property
    def weights(self) -> tuple[float, ...]:
        return astuple(self)


@dataclass(frozen=True)
class FimSettings:
    """Sets how many pieces are transformed (fim_rate), and how many of those in SPM order.

    healing: prefix and middle are spelled as one text, and the last token before the cursor belongs
    to the middle, as where generation writes it again (`hugcoder.data.healing`). Code Llama spells
    prefix and middle together in SPM (Roziere et al. 2023, arXiv 2308.12950).
    """

    fim_rate: float = 0.5
    spm_rate: float = 0.5
    spans: SpanMix = field(default_factory=SpanMix)
    healing: bool = False

    def __post_init__(self) -> None:
        for name in ("fim_rate", "spm_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} is not a probability; give 0 to 1.")


# ---- randomness without state --------------------------------------------------------------------

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: np.ndarray) -> np.ndarray:
    """Apply the splitmix64 finalizer (Steele et al. 2014): uint64 -> well mixed uint64."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_uniform(seed: int, *keys: np.ndarray | int) -> np.ndarray:
    """Return uniform numbers in [0, 1), one for each entry of the broadcast integer `keys`.

    A pure function of its input.
    """
    with np.errstate(over="ignore"):
        state = _mix(np.asarray([seed], dtype=np.int64).astype(np.uint64) + _GOLDEN)
        for key in keys:
            state = _mix((state + _GOLDEN) ^ _mix(np.asarray(key).astype(np.uint64) + _GOLDEN))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def is_transformed(
    fim_rate: float, seed: int, epoch: int, documents, pieces, repeats=0
) -> np.ndarray:
    """Tell which pieces FIM rearranges: one boolean for each (document uid, piece, repeat)."""
    return hash_uniform(seed, epoch, documents, pieces, repeats) < fim_rate


def keyed_rng(*keys: int | str) -> np.random.Generator:
    """Return a random stream that depends on its keys alone."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def piece_rng(
    seed: int, epoch: int, document: int, start: int, repeat: int = 0
) -> np.random.Generator:
    """Return the random stream of the unit that begins at token `start` of a document."""
    return keyed_rng(seed, epoch, document, start, repeat)


SHORTEST_DRAWN = 40  # tokens: a few lines on either side of a cursor


def draw_lengths(
    seed: int, epoch: int, documents, starts, repeats, part: int, longest: int
) -> np.ndarray:
    """Draw how many tokens a unit may take, log-uniform up to `longest`.

    One number for each (document uid, start of the stretch that is cut up, repeat), and another for
    each `part` of the stretch. If every unit were as long as a row allows, a model would learn that
    a middle ends where the row ends, and not from the text that follows: measured, P(end | true
    middle) was .02 in units of 64 to 200 tokens and .60 in units of 252.
    """
    shortest = min(SHORTEST_DRAWN, longest // 2)
    uniform = hash_uniform(seed, epoch, documents, starts, repeats, part, longest)
    drawn = shortest * ((longest + 1) / shortest) ** uniform
    return np.minimum(drawn.astype(np.int64), longest)


# ---- spans ---------------------------------------------------------------------------------------

MAX_SHORT_CHARACTERS = 256
MAX_SPAN_LINES = 8


def draw_span(text: str, rng: np.random.Generator, mix: SpanMix) -> Span:
    """Draw a middle of `text`, cut between characters and never inside a UTF-8 code point."""
    weights = np.asarray(mix.weights)
    kind = int(np.searchsorted(np.cumsum(weights / weights.sum()), rng.random(), side="right"))
    return _DRAWS[min(kind, len(_DRAWS) - 1)](text, rng)


def _random_span(text: str, rng: np.random.Generator) -> Span:
    start, stop = sorted(rng.integers(0, len(text) + 1, size=2).tolist())
    return Span(start, stop)


def _short_span(text: str, rng: np.random.Generator) -> Span:
    longest = min(MAX_SHORT_CHARACTERS, len(text))
    length = min(int(np.exp(rng.uniform(0.0, np.log(longest + 1)))), longest)
    start = int(rng.integers(0, len(text) - length + 1))
    return Span(start, start + length)


def _line_span(text: str, rng: np.random.Generator) -> Span:
    """Draw from a cursor to the end of its own line (60 %) or of one of the next seven."""
    line_start = _start_of_a_line(text, rng)
    num_lines = 1 if rng.random() < 0.6 else int(rng.integers(2, MAX_SPAN_LINES + 1))
    return _from_cursor(text, rng, line_start, num_lines)


def _one_line_span(text: str, rng: np.random.Generator) -> Span:
    return _from_cursor(text, rng, _start_of_a_line(text, rng), 1)


def _start_of_a_line(text: str, rng: np.random.Generator) -> int:
    return text.rfind("\n", 0, int(rng.integers(0, max(len(text), 1)))) + 1


def _from_cursor(text: str, rng: np.random.Generator, line_start: int, num_lines: int) -> Span:
    """Draw a cursor in the line, at the start of its text half of the time; go to a line's end."""
    stop = line_start - 1
    for _ in range(num_lines):
        stop = text.find("\n", stop + 1)
        if stop < 0:
            stop = len(text)
            break
    if stop > line_start and text.startswith("\r\n", stop - 1):
        stop -= 1  # keeps \r\n in one piece
    line = text[line_start:stop]
    indentation = line_start + len(line) - len(line.lstrip())
    start = int(rng.integers(indentation, stop + 1)) if rng.random() < 0.5 else indentation
    return Span(min(start, stop), stop)


def _empty_span(text: str, rng: np.random.Generator) -> Span:
    cut = int(rng.integers(0, len(text) + 1))
    return Span(cut, cut)


def _line_end_span(text: str, rng: np.random.Generator) -> Span:
    stop = text.find("\n", int(rng.integers(0, len(text) + 1)))
    cut = len(text) if stop < 0 else stop
    if cut and text.startswith("\r\n", cut - 1):
        cut -= 1
    return Span(cut, cut)


# in the order of SpanMix
_DRAWS = (_random_span, _short_span, _line_span, _empty_span, _one_line_span, _line_end_span)


# ---- units ---------------------------------------------------------------------------------------

NUM_ADDED_TOKENS = 4  # three sentinels and the end token
# Cutting at characters adds 2.1 tokens on average, 6 at p99, 8 at most over 3,000 cuts.
RESERVE_TOKENS = 8
REDRAWS = 4


class Unit(NamedTuple):
    """Holds a transformed piece, `[sentinels and texts] middle [end]`.

    The middle starts at index `middle_start`.
    """

    ids: list[int]
    middle_start: int


def planned_length(num_tokens: np.ndarray | int) -> np.ndarray | int:
    """Return the tokens to keep free for the unit of a piece of `num_tokens` tokens."""
    return num_tokens + NUM_ADDED_TOKENS + RESERVE_TOKENS


def _shorten(text: str, encode: Encode, max_tokens: int, keep_start: bool) -> list[int]:
    """Return the ids of the longest start (or end) of `text` that fits, in whole characters."""
    ids = encode([text])[0]
    while len(ids) > max(max_tokens, 0):
        keep = len(text) - min(len(ids) - max(max_tokens, 0), len(text))
        text = text[:keep] if keep_start else text[len(text) - keep :]
        ids = encode([text])[0]
    return ids


def make_unit(
    text: str,
    encode: Encode,
    ids: FimIds,
    rng: np.random.Generator,
    settings: FimSettings,
    max_tokens: int,
) -> Unit:
    """Transform one piece into one intact unit of at most `max_tokens` tokens.

    The three texts are encoded one by one, or prefix and middle together (`healing`). A unit
    that is too long is drawn again. If that does not help, a middle that does not fit by itself is
    shortened and the suffix gets the rest of it; then the suffix loses its tail, then the prefix
    its head. The middle always ends where the suffix of the text begins, and the end token is never
    cut.

    Raises: ValueError when `max_tokens` leaves no room for a unit without any text.
    """
    if max_tokens < NUM_ADDED_TOKENS:
        raise ValueError(f"a unit has {NUM_ADDED_TOKENS} tokens or more, not {max_tokens}.")
    is_spm = rng.random() < settings.spm_rate
    room = max_tokens - NUM_ADDED_TOKENS
    for _ in range(REDRAWS):
        span = draw_span(text, rng, settings.spans)
        prefix, suffix, middle = encode(_around(text, span))
        if settings.healing:
            prefix, middle = healed(encode, text[: span.start], text[span.start : span.stop])
        if len(prefix) + len(suffix) + len(middle) <= room:
            break
    else:
        prefix, suffix, middle = _squeeze(text, span, encode, room)
    order = ids.format.spm if is_spm else ids.format.psm
    unit = [*ids.arrange(order, prefix, suffix, middle), ids.end]
    return Unit(unit, len(unit) - 1 - len(middle))


def _around(text: str, span: Span) -> list[str]:
    """Split into prefix, suffix and middle."""
    return [text[: span.start], text[span.stop :], text[span.start : span.stop]]


def healed(encode: Encode, before: str, middle: str) -> tuple[list[int], list[int]]:
    """Return the ids of the prefix without its last token, and of that token and the middle.

    Both are those of the whole text, if its tokens begin with the prefix's; else the last token and
    the middle are spelled one by one.
    """
    prefix, whole, alone = encode([before, before + middle, middle])
    kept = max(len(prefix) - 1, 0)
    if whole[:kept] == prefix[:kept]:
        return whole[:kept], whole[kept:]
    return prefix[:kept], [*prefix[kept:], *alone]


def _squeeze(text: str, span: Span, encode: Encode, room: int) -> list[list[int]]:
    """Return ids of prefix, suffix and middle that together fit `room`; see `make_unit`."""
    prefix, suffix, middle = encode(_around(text, span))
    while len(middle) > room:  # a text without spaces can have more tokens after a cut
        span = Span(span.start, (span.start + span.stop) // 2)
        prefix, suffix, middle = encode(_around(text, span))
    before, after, _ = _around(text, span)
    suffix = _shorten(after, encode, room - len(middle) - len(prefix), keep_start=True)
    prefix = _shorten(before, encode, room - len(middle) - len(suffix), keep_start=False)
    return [prefix, suffix, middle]
