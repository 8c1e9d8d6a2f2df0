"""Files that carry data as text: base64, lists of hexadecimal bytes, runs of unicode escapes."""

import re

import numpy as np

from data_prep.document import Document
from data_prep.filters.settings import RuleSettings

MIN_BASE64 = 64  # characters; shorter runs are words
MIN_HEXADECIMAL = 16  # characters of eight pairs
HEXADECIMAL = re.compile(r"(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,|\b\s*)){8,}")
UNICODE_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4}){8,}")


def _members(characters: bytes) -> bytes:
    """A table for bytes.translate: 1 for these bytes, 0 for others."""
    return bytes(byte in characters for byte in range(256))


IS_BASE64 = _members(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/\n=")
# every byte that a match of HEXADECIMAL may hold; those from 0x80 on may be of white space
IN_HEXADECIMAL = _members(
    b"0123456789abcdefABCDEFx\\, \t\n\r\v\f\x1c\x1d\x1e\x1f" + bytes(range(0x80, 0x100))
)


def encoded_data(document: Document, settings: RuleSettings) -> str | None:
    """`encoded_data` for a run over max_encoded_run, or runs over max_encoded_share in all."""
    data, text = document.data, document.content
    max_sum = settings.max_encoded_share * len(text)

    def is_too_much(lengths: np.ndarray) -> bool:
        return lengths.max(initial=0) > settings.max_encoded_run or lengths.sum() > max_sum

    is_out = is_too_much(_runs(data, IS_BASE64, MIN_BASE64))
    # the expression would take half of the time of all rules, so it runs only where it may match
    if not is_out and is_too_much(_runs(data, IN_HEXADECIMAL, MIN_HEXADECIMAL)):
        is_out = is_too_much(_matches(HEXADECIMAL, text))
    if not is_out and "\\u" in text:
        is_out = is_too_much(_matches(UNICODE_ESCAPES, text))
    return "encoded_data" if is_out else None


def _matches(pattern: re.Pattern[str], text: str) -> np.ndarray:
    return np.array([match.end() - match.start() for match in pattern.finditer(text)])


def _runs(data: bytes, members: bytes, at_least: int) -> np.ndarray:
    r"""Lengths in bytes of the maximal runs of members, short ones left out.

    For base64 they are the matches of [a-zA-Z0-9+/\n=]{64,}, found ten times as fast.
    """
    is_in = np.frombuffer(b"\0" + data.translate(members) + b"\0", dtype=np.uint8)
    edges = np.flatnonzero(is_in[1:] != is_in[:-1])
    lengths = edges[1::2] - edges[::2]
    return lengths[lengths >= at_least]
