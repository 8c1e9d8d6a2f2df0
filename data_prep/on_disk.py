"""Files in plain folders: walking, licence of a folder, reading.

Links to files and folders are never followed, special files never opened. Folders that hold
nothing a project wrote (SKIPPED_FOLDERS) are not entered, and their files are not counted as read.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from data_prep import licenses
from data_prep.document import RawFile
from hugcoder.refusal import Refusal

SKIPPED_FOLDERS = {".git", ".hg", ".svn", ".venv", ".work", "__pycache__", "node_modules"}
CHUNK_BYTES = 8_000_000
CHUNK_FILES = 1_000
LARGE = 1_000_000  # bytes; what is larger is mostly dropped unread and costs a chunk no time

Item = TypeVar("Item")


@dataclass(frozen=True)
class Entry:
    """A file as a folder lists it; sizes in bytes, time in nanoseconds."""

    repo: str
    path: str
    file: str
    size: int
    modified: int
    license: str
    commit: str
    reason: str

    def as_list(self) -> list[str | int]:
        return [*vars(self).values()]


def in_chunks(entries: Iterable[tuple[Item, int]]) -> Iterator[list[Item]]:
    """Group (item, bytes) pairs into lists of bounded bytes and length, order kept."""
    chunk: list[Item] = []
    num_bytes = 0
    for item, size in entries:
        chunk.append(item)
        num_bytes += min(size, LARGE)
        if num_bytes >= CHUNK_BYTES or len(chunk) >= CHUNK_FILES:
            yield chunk
            chunk, num_bytes = [], 0
    if chunk:
        yield chunk


def list_folder(path: str, repo: str = "") -> Iterator[list[list]]:
    """Chunks of a folder. Each top-level git work tree is a repository, the rest is one.

    Raises: Refusal when `path` is no folder.
    """
    root = existing_folder(path)
    return in_chunks((entry.as_list(), entry.size) for entry in _list_repositories(root, repo))


def existing_folder(path: str) -> Path:
    """`path` as a Path without "~". Raises: Refusal when it is no folder."""
    root = Path(path).expanduser()
    if not root.is_dir():
        raise Refusal(f"sources: the folder {path} does not exist; check its path.")
    return root


def _list_repositories(root: Path, repo: str) -> Iterator[Entry]:
    inner = [] if (root / ".git").exists() or repo else work_trees_in(root)
    skipped = SKIPPED_FOLDERS | {tree.name for tree in inner}
    name = repo or root.absolute().name
    yield from walk(root, name, license_of(root), top_skipped=skipped)
    for tree in inner:
        yield from walk(tree, tree.name, license_of(tree))


def work_trees_in(root: Path) -> list[Path]:
    """The folders right below `root` that are git work trees, by name; links are not followed."""
    children = (child for child in root.iterdir() if not child.is_symlink())
    return sorted(child for child in children if (child / ".git").exists())


def license_of(folder: Path) -> str:
    """SPDX guess from the licence files that lie right in `folder`."""
    for file in sorted(folder.iterdir()):
        if licenses.is_license_file(file.name) and file.is_file() and not file.is_symlink():
            with file.open("rb") as stream:
                head = stream.read(licenses.NUM_CHARACTERS)
            found = licenses.guess(head.decode("utf-8", errors="replace"))
            if found != licenses.UNKNOWN:
                return found
    return licenses.UNKNOWN


def walk(
    root: Path,
    repo: str,
    license: str = licenses.UNKNOWN,
    commit: str = "",
    top_skipped: set[str] = SKIPPED_FOLDERS,
) -> Iterator[Entry]:
    """Every file below `root` in a fixed order, one folder in memory at a time.

    Args: top_skipped: names of folders right below `root` that are not entered.
    """
    folders = [str(root)]
    while folders:
        folder = folders.pop()
        skipped = top_skipped if folder == str(root) else SKIPPED_FOLDERS
        with os.scandir(folder) as listing:
            children = sorted(listing, key=lambda child: child.name)
        inner = []
        for child in children:
            if child.is_dir(follow_symlinks=False):
                if child.name not in skipped:
                    inner.append(child.path)
                continue
            yield entry_of(child.path, os.path.relpath(child.path, root), repo, license, commit)
        folders += reversed(inner)


def entry_of(file: str, path: str, repo: str, license: str, commit: str) -> Entry:
    """What the folder says of one file, with the reason why it is out, if it is."""
    status = os.lstat(file)
    path = path.replace(os.sep, "/")
    reason = ""
    if stat.S_ISLNK(status.st_mode):
        reason = "link"
    elif not stat.S_ISREG(status.st_mode):
        reason = "not_a_regular_file"
    elif not is_utf8(path):
        reason = "name_not_utf8"
    size = 0 if reason in ("link", "not_a_regular_file") else status.st_size
    return Entry(repo, path, file, size, status.st_mtime_ns, license, commit, reason)


def is_utf8(name: str) -> bool:
    """Whether a name that the file system gave is valid UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def read(items: list[list]) -> Iterator[RawFile]:
    """The files of a chunk; the reason `unreadable` is decided when they are read."""
    for item in items:
        entry = Entry(*item)
        yield RawFile(
            repo=entry.repo,
            path=entry.path,
            size=entry.size,
            load=Path(entry.file).read_bytes,
            license=entry.license,
            commit=entry.commit,
            reason=entry.reason,
        )
