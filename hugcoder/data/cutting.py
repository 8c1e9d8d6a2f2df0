"""Where documents are cut: at line ends where possible, else between characters, at token counts.

Works on many documents at once and reads no tokens but those around a cut inside a line. Holds no
policy: how long a part may be is the caller's (`hugcoder.data.packing`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hugcoder.data.codec import Codec
from hugcoder.data.token_store import TokenStore

# (owners [N], number of the part) -> [N] tokens the next part of each owner may have, at least 1
Limits = Callable[[np.ndarray, int], np.ndarray]


class Parts(NamedTuple):
    """Arrays with one entry a part, ordered by owner and number."""

    owner: np.ndarray  # index of the span it is a part of
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
    """Cut token spans of documents, which must ascend, into parts that together are the spans.

    A part that is not text (`is_text`) comes only of a stretch longer than a part in which every
    token begins inside a character, as byte-level BPE makes of dense scripts.
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
    """[N] where parts of at most `limit` tokens end, and whether that is inside a character."""
    points = store.last_line_ends(documents, begin, begin + limit)
    is_inside = np.zeros(len(points), dtype=bool)
    # a line longer than half a part: cut inside it
    for index in np.flatnonzero(points <= begin + limit // 2).tolist():
        furthest = int(begin[index] + limit[index])
        tokens = store.tokens(int(documents[index]), int(begin[index]) + 1, furthest + 1)
        between = np.flatnonzero(~codec.continues_character[tokens])
        is_inside[index] = not len(between)
        points[index] = begin[index] + 1 + between[-1] if len(between) else furthest
    return points, is_inside
