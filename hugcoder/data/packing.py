"""Plans rows: where documents are cut, which pieces FIM takes, which units share a row.

Plans are made from lengths, and are a pure function of (store, settings, epoch). So row i of a run
can be made again anywhere and in any order.

    documents -> pieces   cut once, at line ends, into at most `content_limit` tokens
    pieces -> units       each piece is left-to-right or fill-in-the-middle; neighbours that FIM
                          takes are joined and cut again, into units of drawn lengths
    units -> rows         best-fit decreasing in windows of shuffled units; a unit is never cut

`hugcoder.data.cutting` finds the exact place of a cut. `hugcoder.data.rows` transforms the texts.
"""

import bisect
import logging
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

import fim
from hugcoder.data.codec import Codec
from hugcoder.data.cutting import cut
from hugcoder.data.token_store import TokenStore

logger = logging.getLogger(__name__)

WINDOW = 16_384  # units packed together: enough for tight rows, few enough to stay shuffled
CUT_SHARE = 0.25  # share of FIM's whole documents that are cut up although they fit a row
CUT_KEY = 1 << 41  # makes this draw differ from others with the same keys


class Pieces(NamedTuple):
    """Holds arrays with one entry for each piece of a document."""

    document: np.ndarray  # index in the store
    number: np.ndarray  # 0, 1, ... within the document
    start: np.ndarray  # first token
    length: np.ndarray  # tokens
    is_last: np.ndarray  # whether the document ends with it
    is_text: np.ndarray  # whether it begins and ends between characters; FIM takes no others


def cut_documents(store: TokenStore, codec: Codec, content_limit: int) -> Pieces:
    """Cut documents into pieces of at most `content_limit` tokens, at line ends if possible."""
    document = np.flatnonzero(store.lengths > 0)
    stop = store.lengths[document]
    parts = cut(
        store,
        codec,
        document,
        start=np.zeros_like(stop),
        stop=stop,
        limits=lambda owner, number: np.full(len(owner), content_limit),
    )
    return Pieces(
        document=document[parts.owner],
        number=parts.number,
        start=parts.start,
        length=parts.stop - parts.start,
        is_last=parts.stop == stop[parts.owner],
        is_text=parts.is_text,
    )


def best_fit(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Pack items into rows by best fit decreasing.

    The longest item comes first; each goes into the open row with the least room that takes it.

    Args: lengths: [items] at most `capacity` each.
    Returns: the row of each item [items], and the number of rows.
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
    """Decides the plan. row_length: tokens in a row. seed: of every draw."""

    row_length: int
    seed: int
    fim_rate: float

    @property
    def content_limit(self) -> int:
        """Return the most tokens of a piece whose unit still fits a row."""
        return self.row_length - (int(fim.planned_length(0)) if self.fim_rate else 1)


class Units(NamedTuple):
    """Holds arrays with one entry for each unit."""

    document: np.ndarray  # index in the store
    repeat: np.ndarray  # 0 unless the mixture shows a document more than once in an epoch
    start: np.ndarray  # first token, within the document
    num_tokens: np.ndarray  # of the document, before FIM
    is_fim: np.ndarray
    is_last: np.ndarray  # whether the document ends with it
    length: np.ndarray  # tokens kept free for it in its row


@dataclass(frozen=True)
class EpochPlan:
    """Plans one epoch: row i holds the units row_offsets[i] to row_offsets[i + 1]."""

    epoch: int
    units: Units
    row_offsets: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.row_offsets) - 1

    def units_of(self, first_row: int, last_row: int) -> Units:
        """Return the units of rows first_row to last_row, without last_row."""
        places = slice(self.row_offsets[first_row], self.row_offsets[last_row])
        return Units(*(array[places] for array in self.units))


def plan_epoch(
    store: TokenStore,
    codec: Codec,
    pieces: Pieces,
    settings: PackingSettings,
    epoch: int,
    repeats_per_epoch: np.ndarray | None = None,
) -> EpochPlan:
    """Plan one pass over the pieces.

    Args: repeats_per_epoch: [documents] how often a document is seen in an epoch; a fraction is the
    probability of one more time. None = once each.
    """
    uids = store.uids[pieces.document]
    times = np.ones(len(uids), dtype=np.int64)
    if repeats_per_epoch is not None:
        wanted = repeats_per_epoch[pieces.document]
        drawn = fim.hash_uniform(settings.seed, epoch, uids, 1 << 40)
        times = np.floor(wanted + drawn).astype(np.int64)
    piece = np.repeat(np.arange(len(uids)), times)
    repeat = np.arange(len(piece)) - np.repeat(np.cumsum(times) - times, times)
    units = _make_units(store, codec, pieces, piece, repeat, settings, epoch)
    rng = fim.keyed_rng("order", settings.seed, epoch)
    units = _reordered(units, rng.permutation(len(units.document)))
    in_rows, row_offsets = _pack_windows(units.length, settings.row_length, rng)
    return EpochPlan(epoch, _reordered(units, in_rows), row_offsets)


def _reordered(units: Units, order: np.ndarray) -> Units:
    return Units(*(array[order] for array in units))


class Stretches(NamedTuple):
    """Holds arrays with one entry for each stretch of a document, which becomes one or more
    units."""

    document: np.ndarray
    repeat: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    is_last: np.ndarray  # whether the document ends with it
    is_fim: np.ndarray
    is_drawn: np.ndarray  # whether it is cut up at drawn lengths


def _make_units(
    store: TokenStore,
    codec: Codec,
    pieces: Pieces,
    piece: np.ndarray,
    repeat: np.ndarray,
    settings: PackingSettings,
    epoch: int,
) -> Units:
    """Make the units of pieces; each entry of `piece` shows a piece once."""
    found = _stretches(store, pieces, piece, repeat, settings, epoch)
    uids, longest = store.uids[found.document], settings.content_limit

    def limits(owner: np.ndarray, number: int) -> np.ndarray:
        keys = (uids[owner], found.start[owner], found.repeat[owner])
        drawn = fim.draw_lengths(settings.seed, epoch, *keys, number, longest)
        return np.where(found.is_drawn[owner], drawn, longest)

    parts = cut(store, codec, found.document, found.start, found.stop, limits)
    owner, num_tokens = parts.owner, parts.stop - parts.start
    is_fim = found.is_fim[owner] & parts.is_text
    return Units(
        document=found.document[owner],
        repeat=found.repeat[owner].astype(np.int16),
        start=parts.start,
        num_tokens=num_tokens,
        is_fim=is_fim,
        is_last=(is_last := found.is_last[owner] & (parts.stop == found.stop[owner])),
        length=np.where(is_fim, fim.planned_length(num_tokens), num_tokens + is_last),
    )


def _stretches(
    store: TokenStore,
    pieces: Pieces,
    piece: np.ndarray,
    repeat: np.ndarray,
    settings: PackingSettings,
    epoch: int,
) -> Stretches:
    """Join pieces into stretches, which become units.

    Neighbouring pieces that FIM takes are joined, to be cut up at drawn lengths. A left-to-right
    piece stays whole, for the longest context. Most documents that fit a row keep their own length,
    but CUT_SHARE of them are cut up: otherwise units of whole files would all end where their row
    ends, which `fim.draw_lengths` prevents.
    """
    order = np.lexsort((pieces.number[piece], repeat, pieces.document[piece]))
    piece, repeat = piece[order], repeat[order]
    document, start = pieces.document[piece], pieces.start[piece]
    stop, is_last = start + pieces.length[piece], pieces.is_last[piece]
    keys = (store.uids[document], pieces.number[piece], repeat)
    is_fim = fim.is_transformed(settings.fim_rate, settings.seed, epoch, *keys)
    is_fim &= pieces.is_text[piece]
    is_whole = (start == 0) & is_last
    is_cut_too = fim.hash_uniform(settings.seed, epoch, *keys, CUT_KEY) < CUT_SHARE
    is_drawn = is_fim & (~is_whole | is_cut_too)
    # a piece that begins where the previous one ends belongs to the same document and repeat
    follows = is_drawn[1:] & is_drawn[:-1] & (start[1:] == stop[:-1]) & ~is_last[:-1]
    first = np.flatnonzero(np.concatenate([[True], ~follows])[: len(piece)])
    last = np.append(first[1:], len(piece))[: len(first)] - 1
    own = (document, repeat, start, stop, is_last, is_fim, is_drawn)
    document, repeat, start, _, _, is_fim, is_drawn = (array[first] for array in own)
    return Stretches(document, repeat, start, stop[last], is_last[last], is_fim, is_drawn)


def _pack_windows(
    lengths: np.ndarray, capacity: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return units in row order and the row offsets; shuffle each window's rows, packed sorted."""
    order, counts = [], []
    for first in range(0, len(lengths), WINDOW):
        rows, num_rows = best_fit(lengths[first : first + WINDOW], capacity)
        shuffled = rng.permutation(num_rows)[rows]
        order.append(first + np.argsort(shuffled, kind="stable"))
        counts.append(np.bincount(shuffled, minlength=num_rows))
    if not order:
        return np.zeros(0, np.int64), np.zeros(1, np.int64)
    return np.concatenate(order), np.concatenate([[0], np.cumsum(np.concatenate(counts))])
