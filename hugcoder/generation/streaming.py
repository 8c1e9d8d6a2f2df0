"""Turns new ids into text as soon as they make whole characters."""

from collections.abc import Collection, Iterable, Iterator

from hugcoder.generation.loading import CheckpointCodec

REPLACEMENT = "\ufffd"  # what decoding makes of bytes that are not (or not yet) a code point


def stream_text(
    codec: CheckpointCodec, ids: Iterable[int], stops: Collection[int], num_left_out: int = 0
) -> Iterator[str]:
    """Yield the text of ids in whole characters, without special tokens.

    Args: num_left_out: bytes of the prompt that the ids begin with, see `Prompt.last`.

    An id may end inside a UTF-8 code point. Its text waits for the next id, and is dropped when no
    id follows.
    """
    pending: list[int] = []
    for index in ids:
        if index in stops:
            break
        pending.append(index)
        text = codec.decode_after(pending, num_left_out)
        if text and not text.endswith(REPLACEMENT):
            yield text
            pending, num_left_out = [], 0
    if rest := codec.decode_after(pending, num_left_out).rstrip(REPLACEMENT):
        yield rest
