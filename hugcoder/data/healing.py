"""Token healing: the last token before a cursor is written again, so that it may become longer.

A tokenizer spells a text that goes on past the cursor with other tokens than one that ends there:
`sel` and `f.name` are not `self.name`. A model that has read the former half is asked for tokens
that hardly ever follow it. So the prompt leaves out the last token, and the answer must begin with
its bytes. Borrowed from guidance (Lundberg, "The art of prompt design: prompt boundaries and token
healing", 2023). Without an effect in vocabularies that are not byte-level.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

import fim
from hugcoder.data.codec import Codec
from hugcoder.refusal import Refusal


class Healed(NamedTuple):
    """Holds the ids of a text without its last one, which is in `last`; none for an empty text."""

    ids: list[int]
    last: list[int]


class Healing:
    """Knows which tokens may come next where a text must begin with given bytes."""

    def __init__(self, codec: Codec):
        self.codec = codec

    @cached_property
    def _token_bytes(self) -> list[bytes]:
        try:
            return self.codec.token_bytes
        except Refusal:  # not byte-level, as in Code Llama's vocabulary
            return []

    @cached_property
    def _sorted(self) -> tuple[list[bytes], list[int]]:
        pairs = sorted((text, index) for index, text in enumerate(self._token_bytes) if text)
        return [text for text, _ in pairs], [index for _, index in pairs]

    def heal(self, ids: Sequence[int]) -> Healed:
        """Take the last token off, if it stands for bytes."""
        last = list(ids[-1:])
        if not last or not self.beginning(last):
            return Healed(list(ids), [])
        return Healed(list(ids[:-1]), last)

    def beginning(self, last: list[int]) -> bytes:
        """Return the bytes with which an answer must begin; b"" = it may begin with any token."""
        return b"".join(self._token_bytes[index] for index in last if self._token_bytes)

    def allowed(self, beginning: bytes) -> np.ndarray:
        """Return the ids that go on from, or are a part of, what must come first."""
        texts, ids = self._sorted
        first = bisect_left(texts, beginning)
        longer = []
        while first < len(texts) and texts[first].startswith(beginning):
            longer.append(ids[first])
            first += 1
        for length in range(1, len(beginning)):
            place = bisect_left(texts, beginning[:length])
            while place < len(texts) and texts[place] == beginning[:length]:
                longer.append(ids[place])
                place += 1
        return np.array(sorted(longer), dtype=np.int64)

    def rest(self, beginning: bytes, index: int) -> bytes:
        """Return what must still come after the token `index`."""
        return beginning[len(self._token_bytes[index]) :] if beginning else b""

    def written(self, before: str, middle: str, last: list[int]) -> list[int]:
        """Return the tokens of a healed answer, from the text of `last` through `middle`.

        Args: before: the text that `last` ends.
        """
        if not last:
            return self.codec.encode([middle])[0]
        return fim.healed(self.codec.encode, before, middle)[1]
