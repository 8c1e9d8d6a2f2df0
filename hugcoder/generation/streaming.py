"""From new ids to text, as soon as it is whole characters."""

from collections.abc import Collection, Iterable, Iterator

from hugcoder.generation.loading import CheckpointCodec

REPLACEMENT = "\ufffd"  # what decoding makes of bytes that are no (or not yet a) code point


def stream_text(
    codec: CheckpointCodec, ids: Iterable[int], stops: Collection[int]
) -> Iterator[str]:
    """Text of ids as it becomes whole characters, without special tokens.

    An id may end inside a UTF-8 code point; its text waits for the rest, and is dropped when
    nothing follows.
    """
    pending: list[int] = []
    for index in ids:
        if index in stops:
            break
        pending.append(index)
        text = codec.decode(pending)
        if text and not text.endswith(REPLACEMENT):
            yield text
            pending = []
    if rest := codec.decode(pending).rstrip(REPLACEMENT):
        yield rest
