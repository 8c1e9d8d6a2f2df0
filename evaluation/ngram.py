"""An n-gram model of the training split: a floor of memorized phrases, without a neural network.

Interpolated absolute discounting (Ney, Essen and Kneser 1994) over token ids, all orders up to
ORDER: an n-gram seen c times after a history seen h times gets (c - DISCOUNT) / h, and what is
left goes to the next shorter history. It knows the text before a hole. Of the text behind it, it
knows one thing: an answer that goes on as that text does has ended.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from hugcoder.generation.loading import CheckpointCodec

ORDER = 5
DISCOUNT = 0.75
SUFFIX_CHARACTERS = 3  # of the text behind a hole; an answer that arrives at them has ended
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses nothing


class _Table(NamedTuple):
    """One order: sorted keys of histories and of n-grams, each with its counts."""

    histories: np.ndarray
    history_counts: np.ndarray
    num_continuations: np.ndarray  # different tokens that followed
    likeliest: np.ndarray  # the token that followed most often
    ngrams: np.ndarray
    ngram_counts: np.ndarray


class NgramModel:
    """Counts n-grams of documents. Args: vocab_size: ids that share what no n-gram explains."""

    def __init__(self, documents: Iterable[list[int]], vocab_size: int, separator: int):
        parts = [np.asarray([*ids, separator], dtype=np.uint64) for ids in documents]
        ids = np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)
        self.vocab_size = vocab_size
        self._tables = [_count(ids, order) for order in range(1, ORDER + 1)]

    def probabilities(self, ids: list[int], first: int) -> np.ndarray:
        """P(id | ids before it) of each id from index `first` on: [len(ids) - first]."""
        array = np.asarray(ids, dtype=np.uint64)
        found = np.full(len(ids) - first, 1 / self.vocab_size)
        for order, table in enumerate(self._tables, start=1):
            start = max(first, order - 1)  # earlier ids have no such history
            if start >= len(ids):
                break
            histories = _keys(array, order - 1)[start - order + 1 : len(ids) - order + 1]
            place, is_known = _find(table.histories, histories)
            counts = np.where(is_known, table.history_counts[place], 1)
            ngram_place, is_seen = _find(table.ngrams, _joined(histories, array[start:]))
            seen = np.where(is_seen, table.ngram_counts[ngram_place] - DISCOUNT, 0.0)
            left = DISCOUNT * table.num_continuations[place] / counts
            lower = found[start - first :]
            found[start - first :] = np.where(is_known, seen / counts + left * lower, lower)
        return found

    def next_id(self, ids: list[int]) -> int:
        """The token that followed most often the longest history that is known."""
        for order in range(min(ORDER, len(ids) + 1), 0, -1):
            table = self._tables[order - 1]
            history = np.asarray(ids[len(ids) - order + 1 :], dtype=np.uint64)
            place, is_known = _find(table.histories, _keys(history, order - 1)[-1:])
            if is_known[0]:
                return int(table.likeliest[place[0]])
        return 0

    def fill(self, codec: CheckpointCodec, prefix: str, suffix: str, max_new_tokens: int) -> str:
        """Continue the prefix greedily up to where the suffix goes on, else to the line's end."""
        (ids,) = codec.encode([prefix[-2000:]])
        new: list[int] = []
        text = ""
        for _ in range(max_new_tokens):
            new.append(self.next_id([*ids, *new]))
            text = codec.decode(new)
            if suffix and (stop := text.find(suffix[:SUFFIX_CHARACTERS])) >= 0:
                return text[:stop]
        return text.split("\n", 1)[0]


def _keys(ids: np.ndarray, length: int) -> np.ndarray:
    """A 64-bit hash of each window of `length` ids: [len(ids) - length + 1]."""
    keys = np.full(len(ids) - length + 1, np.uint64(length))
    for offset in range(length):
        keys = _joined(keys, ids[offset : len(ids) - length + 1 + offset])
    return keys


def _joined(keys: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Hash keys together with one more id each."""
    with np.errstate(over="ignore"):
        mixed = (keys ^ (ids + np.uint64(1))) * _MULTIPLIER
    return mixed ^ (mixed >> np.uint64(29))


def _find(table: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each key is in a sorted table, and whether it is there."""
    place = np.minimum(np.searchsorted(table, keys), max(len(table) - 1, 0))
    return place, table[place] == keys if len(table) else np.zeros(len(keys), dtype=bool)


def _count(ids: np.ndarray, order: int) -> _Table:
    """Count all n-grams of one order."""
    if len(ids) < order:
        ids = np.zeros(order, dtype=np.uint64)
    histories = _keys(ids, order - 1)[: len(ids) - order + 1]
    tokens = ids[order - 1 :]
    ngrams, first, counts = np.unique(
        _joined(histories, tokens), return_index=True, return_counts=True
    )
    owners, owner = np.unique(histories[first], return_inverse=True)
    by_owner = np.lexsort((counts, owner))
    last = np.searchsorted(owner[by_owner], np.arange(len(owners)), side="right") - 1
    return _Table(
        histories=owners,
        history_counts=np.bincount(owner, weights=counts),
        num_continuations=np.bincount(owner),
        likeliest=tokens[first][by_owner[last]].astype(np.int64),
        ngrams=ngrams,
        ngram_counts=counts,
    )
