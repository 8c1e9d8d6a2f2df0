"""Pointers of git-lfs: a few lines that stand for a large file which was not fetched."""

from data_prep.document import Document

MAX_BYTES = 1_024  # the specification's limit; a larger file is no pointer
FIRST_LINES = (
    b"version https://git-lfs.github.com/spec/",
    b"version https://hawser.github.com/spec/",  # its name before its first release
)


def lfs_pointer(document: Document) -> str | None:
    """`git_lfs_pointer` for a file that is one."""
    return "git_lfs_pointer" if is_pointer(document.data) else None


def is_pointer(data: bytes) -> bool:
    """Whether these bytes are all of a pointer."""
    return len(data) < MAX_BYTES and data.startswith(FIRST_LINES) and b"\noid " in data
