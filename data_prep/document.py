"""One source file on its way through curation.

Holds the file as a source found it (RawFile) and the file as filters and shards see it (Document).
Bytes are never changed: a byte order mark and CRLF line ends stay.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class RawFile:
    """A file that a source found, not yet read.

    `size` is in bytes; `reason` says why it is out before it is read ("" when it is not);
    `language` is "" where the path has to tell; `load` gives the bytes.
    """

    repo: str
    path: str
    size: int
    load: Callable[[], bytes]
    license: str = "unknown"
    commit: str = ""
    language: str = ""
    reason: str = ""


@dataclass
class Document:
    """A file with its bytes; `content` may only be asked for when they are valid UTF-8."""

    source: str
    repo: str
    path: str
    language: str
    license: str
    commit: str
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    @cached_property
    def content(self) -> str:
        return self.data.decode("utf-8")

    @cached_property
    def lines(self) -> list[str]:
        r"""Lines without their "\n"; a last line that is empty is no line."""
        lines = self.content.split("\n")
        return lines[:-1] if not lines[-1] else lines

    @property
    def blob_sha(self) -> str:
        """The name git gives these bytes, 40 hex digits."""
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()
