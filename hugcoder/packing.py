"""From documents to rows: where documents are cut, which pieces FIM takes, which units share a row.

Everything here is planned from lengths alone, before a token is read, and is a pure function of
(store, settings, epoch), so that row i of a run can be made anywhere, in any order, again.

    documents -> pieces   cut at line ends into at most `content_limit` tokens
    pieces -> units       each piece is left-to-right or fill-in-the-middle, its length is known
    units -> rows         best-fit decreasing in windows of shuffled units; a unit is never cut

The texts themselves are transformed in `hugcoder.rows`.
"""

import bisect
import logging
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

import fim
from hugcoder.codec import Codec
from hugcoder.token_store import LINE_BLOCK, TokenStore

logger = logging.getLogger(__name__)

WINDOW = (
    16_384  # units that are packed together: enough for tight rows, small enough to stay shuffled
)


class Pieces(NamedTuple):
    """Arrays with one entry a piece of a document."""

    document: np.ndarray  # index in the store
    number: np.ndarray  # 0, 1, ... within the document
    start: np.ndarray  # first token
    length: np.ndarray  # tokens
    is_last: np.ndarray  # whether the document ends with it


def cut_documents(store: TokenStore, codec: Codec, content_limit: int) -> Pieces:
    """Cut every document into pieces of at most `content_limit` tokens, at line ends where
    possible."""
    is_long = store.lengths > content_limit
    whole = np.flatnonzero((store.lengths > 0) & ~is_long)
    document, start, stop = [whole], [np.zeros(len(whole), np.int64)], [store.lengths[whole]]
    for index in np.flatnonzero(is_long).tolist():
        cuts = np.array(_cut_points(store, codec, index, content_limit), dtype=np.int64)
        document.append(np.full(len(cuts) - 1, index))
        start.append(cuts[:-1])
        stop.append(cuts[1:])
    documents, starts, stops = (np.concatenate(parts) for parts in (document, start, stop))
    order = np.lexsort((starts, documents))
    documents, starts, stops = documents[order], starts[order], stops[order]
    is_first = np.diff(documents, prepend=-1) != 0
    first_index = np.maximum.accumulate(np.where(is_first, np.arange(len(documents)), 0))
    is_last = stops == store.lengths[documents]
    number = np.arange(len(documents)) - first_index
    return Pieces(documents, number, starts, stops - starts, is_last)


def _cut_points(store: TokenStore, codec: Codec, document: int, limit: int) -> list[int]:
    """0, the cuts, and the document's length."""
    length, table = int(store.lengths[document]), store.line_table(document)
    cuts = [0]
    while length - cuts[-1] > limit:
        furthest = cuts[-1] + limit
        cut = _last_line_end(table, furthest)
        if cut <= cuts[-1] + limit // 2:  # a line longer than half a piece: cut inside it
            cut = _character_boundary(store, codec, document, furthest)
        cuts.append(cut)
    return [*cuts, length]


def _last_line_end(table: bytes, furthest: int) -> int:
    """The last recorded line end at or before token `furthest`; 0 when there is none."""
    block = min(furthest // LINE_BLOCK, len(table) - 1)
    while block >= 0:
        end = block * LINE_BLOCK + table[block]
        if table[block] and end <= furthest:
            return end
        block -= 1
    return 0


def _character_boundary(store: TokenStore, codec: Codec, document: int, furthest: int) -> int:
    """The last token boundary at or before `furthest` that lies between two characters."""
    first = max(furthest - 8, 0)  # a UTF-8 code point has at most 4 bytes
    inside = codec.continues_character[store.tokens(document, first, furthest + 1)]
    return first + int(np.flatnonzero(~inside)[-1]) if not inside.all() else furthest


def best_fit(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Best-fit-decreasing bin packing.

    Each item, longest first, goes into the open row with the least room that still takes it.

    Args: lengths: [items] at most `capacity` each.
    Returns: [items] the row of each item, and the number of rows.
    """
    rows = np.empty(len(lengths), dtype=np.int64)
    open_rows: list[list[int]] = [[] for _ in range(capacity + 1)]  # by room left
    rooms: list[int] = []  # sorted rooms that have an open row
    num_rows = 0
    for item in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[item])
        place = bisect.bisect_left(rooms, length)
        if place == len(rooms):
            row, room = num_rows, capacity
            num_rows += 1
        else:
            room = rooms[place]
            row = open_rows[room].pop()
            if not open_rows[room]:
                del rooms[place]
        rows[item] = row
        room -= length
        if room:
            if not open_rows[room]:
                bisect.insort(rooms, room)
            open_rows[room].append(row)
    return rows, num_rows


@dataclass(frozen=True)
class PackingSettings:
    """What decides the plan. row_length: tokens of a row. seed: of every draw."""

    row_length: int
    seed: int
    fim_rate: float

    @property
    def content_limit(self) -> int:
        """Tokens a piece may have so that its unit fits a row."""
        return self.row_length - (int(fim.planned_length(0)) if self.fim_rate else 1)


@dataclass(frozen=True)
class EpochPlan:
    """Rows of one epoch: row i holds the units row_offsets[i] to row_offsets[i + 1].

    Arrays with one entry a unit, in row order: piece, repeat (0 unless the mixture shows a document
    more than once an epoch), is_fim, length (tokens kept free for it).
    """

    epoch: int
    piece: np.ndarray
    repeat: np.ndarray
    is_fim: np.ndarray
    length: np.ndarray
    row_offsets: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.row_offsets) - 1


def plan_epoch(
    store: TokenStore,
    pieces: Pieces,
    settings: PackingSettings,
    epoch: int,
    repeats_per_epoch: np.ndarray | None = None,
) -> EpochPlan:
    """Plan one pass over the pieces.

    Args: repeats_per_epoch: [documents] how often a document is seen in an epoch; a fraction is the
    probability of one more time. None = once each.
    """
    seed = settings.seed
    uids = store.uids[pieces.document]
    times = np.ones(len(uids), dtype=np.int64)
    if repeats_per_epoch is not None:
        wanted = repeats_per_epoch[pieces.document]
        times = np.floor(wanted + fim.hash_uniform(seed, epoch, uids, 1 << 40)).astype(np.int64)
    unit = np.repeat(np.arange(len(uids)), times)
    repeat = np.arange(len(unit)) - np.repeat(np.cumsum(times) - times, times)
    rng = fim.keyed_rng("order", seed, epoch)
    order = rng.permutation(len(unit))
    unit, repeat = unit[order], repeat[order].astype(np.int16)
    is_fim = fim.is_transformed(
        settings.fim_rate, seed, epoch, uids[unit], pieces.number[unit], repeat
    )
    bare = pieces.length[unit]
    length = np.where(is_fim, fim.planned_length(bare), bare + pieces.is_last[unit])
    in_rows, row_offsets = _pack_windows(length, settings.row_length, rng)
    return EpochPlan(
        epoch, unit[in_rows], repeat[in_rows], is_fim[in_rows], length[in_rows], row_offsets
    )


def _pack_windows(
    lengths: np.ndarray, capacity: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Units in row order and the row offsets; rows of a window are shuffled, for they come out
    sorted."""
    order, counts = [], []
    for first in range(0, len(lengths), WINDOW):
        rows, num_rows = best_fit(lengths[first : first + WINDOW], capacity)
        shuffled = rng.permutation(num_rows)[rows]
        order.append(first + np.argsort(shuffled, kind="stable"))
        counts.append(np.bincount(shuffled, minlength=num_rows))
    if not order:
        return np.zeros(0, np.int64), np.zeros(1, np.int64)
    return np.concatenate(order), np.concatenate([[0], np.cumsum(np.concatenate(counts))])
