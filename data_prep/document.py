"""One source file on its way through curation.

Holds the file as a source found it (RawFile), the file as rules and shards see it (Document), and
what makes a file unreadable.
Reading changes no byte: a byte order mark and CRLF line ends stay. Only a rule may change a text.
"""

import errno
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from hugcoder.refusal import Refusal

# Errors that concern one file or folder alone, and not the disk it lies on
OF_ONE_FILE = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
OF_ONE_FILE |= {errno.ENAMETOOLONG}


class Unreadable(Exception):
    """Something among many that cannot be read: it is counted under `reason` and passed over."""

    def __init__(self, reason: str, words: str = ""):
        super().__init__(words or reason)
        self.reason = reason


def reason_unread(error: OSError) -> str:
    """`unreadable`. Raises: Refusal for an error that the next file would meet as well."""
    if error.errno in OF_ONE_FILE:
        return "unreadable"
    raise Refusal(
        f"sources: reading {error.filename} failed ({error.strerror}); see that its disk is there, "
        "then run the same command to go on."
    ) from None


def is_utf8(name: str) -> bool:
    """Whether a name that the file system, git or a table gave can be written as UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class RawFile:
    """A file that a source found, not yet read.

    `size` is in bytes; `reason` says why it is dropped before it is read ("" when it is not);
    `language` is "" where the path tells it; `load` gives the bytes.
    """

    repo: str
    path: str
    size: int
    load: Callable[[], bytes]
    license: str = "unknown"
    commit: str = ""
    language: str = ""
    reason: str = ""

    @property
    def name(self) -> str:
        """Repository and path, as text that can be written anywhere."""
        name = "/".join(filter(None, (self.repo, self.path))) or "?"
        return name.encode("utf-8", "backslashreplace").decode()


@dataclass
class Document:
    """A file with its bytes; `content` may only be asked for when they are valid UTF-8.

    Where a rule has changed the text, `original` has the bytes that were read.
    """

    source: str
    repo: str
    path: str
    language: str
    license: str
    commit: str
    data: bytes
    original: bytes | None = None

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def as_read(self) -> bytes:
        return self.data if self.original is None else self.original

    @cached_property
    def content(self) -> str:
        return self.data.decode("utf-8")

    @cached_property
    def lines(self) -> list[str]:
        r"""Lines without their "\n"; a last line that is empty is no line."""
        lines = self.content.split("\n")
        return lines[:-1] if not lines[-1] else lines

    def with_content(self, content: str) -> "Document":
        """This file with another text; it keeps the blob name of the bytes that were read."""
        data = content.encode()
        return self if data == self.data else replace(self, data=data, original=self.as_read)

    @property
    def blob_sha(self) -> str:
        """The name git gives the bytes that were read."""
        return blob_name(self.as_read)

    @property
    def changed_sha(self) -> str | None:
        """The name git would give the changed text; None where no rule has changed it."""
        return None if self.original is None else blob_name(self.data)


def blob_name(data: bytes) -> str:
    """The name git gives these bytes, 40 hex digits."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
