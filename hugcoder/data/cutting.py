"""Cuts documents into parts: at line ends if possible, else between characters, else anywhere.

Works on many documents at once, and reads tokens only around a cut inside a line. The caller
(`hugcoder.data.packing`) decides how long a part may be.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hugcoder.data.codec import Codec
from hugcoder.data.token_store import TokenStore

# (owners [N], number of the part) -> [N] most tokens of each owner's next part, at least 1
Limits = Callable[[np.ndarray, int], np.ndarray]


class Parts(NamedTuple):
    """Holds arrays with one entry for each part, ordered by owner and number."""

    owner: np.ndarray  # index of the span that it belongs to
    number: np.ndarray  # 0, 1, ... within the span
    start: np.ndarray  # first token, within the document
    stop: np.ndarray
    is_text: np.ndarray  # whether it begins and ends between characters


def cut(
    store: TokenStore,
    codec: Codec,
    documents: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    limits: Limits,
) -> Parts:
    """Cut token spans into parts that together make up the spans; `documents` must ascend.

    A part is not text (`is_text`) only where every token of a stretch longer than a part begins
    inside a character, as byte-level BPE may split dense scripts.
    """
    owner, begin, number = np.arange(len(documents)), start, 0
    begins_inside = np.zeros(len(owner), dtype=bool)
    rounds = []
    while len(owner):
        limit = limits(owner, number)
        is_cut = stop[owner] - begin > limit
        end, ends_inside = stop[owner], np.zeros(len(owner), dtype=bool)
        found = _cut_points(store, codec, documents[owner[is_cut]], begin[is_cut], limit[is_cut])
        end[is_cut], ends_inside[is_cut] = found
        is_text = ~(begins_inside | ends_inside)
        rounds.append(Parts(owner, np.full(len(owner), number), begin, end, is_text))
        owner, begin, begins_inside = owner[is_cut], end[is_cut], ends_inside[is_cut]
        number += 1
    if not rounds:
        nothing = np.zeros(0, dtype=np.int64)
        return Parts(nothing, nothing, nothing, nothing, nothing.astype(bool))
    joined = Parts(*(np.concatenate(arrays) for arrays in zip(*rounds, strict=True)))
    order = np.lexsort((joined.number, joined.owner))
    return Parts(*(array[order] for array in joined))


def _cut_points(
    store: TokenStore, codec: Codec, documents: np.ndarray, begin: np.ndarray, limit: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find where parts of at most `limit` tokens end [N], and whether inside a character."""
    points = store.last_line_ends(documents, begin, begin + limit)
    is_inside = np.zeros(len(points), dtype=bool)
    # cut inside a line that is longer than half a part
    for index in np.flatnonzero(points <= begin + limit // 2).tolist():
        furthest = int(begin[index] + limit[index])
        tokens = store.tokens(int(documents[index]), int(begin[index]) + 1, furthest + 1)
        between = np.flatnonzero(~codec.continues_character[tokens])
        is_inside[index] = not len(between)
        points[index] = begin[index] + 1 + between[-1] if len(between) else furthest
    return points, is_inside
