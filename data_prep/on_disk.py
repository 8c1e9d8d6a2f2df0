"""Files in plain folders: walking, licence of a folder, reading.

Links to files and folders are never followed, special files never opened. A folder that holds
nothing a project wrote (data_prep.layout) is not entered and counts as one file, as does one that
may not be read.
"""

import itertools
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from data_prep import layout, licenses
from data_prep.counts import Counts
from data_prep.document import RawFile, reason_unread
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

FOLDER_LEFT_OUT = "folder_left_out"  # the reason of data_prep.layout
CHUNK_BYTES = 8_000_000
CHUNK_FILES = 1_000
LARGE = 1_000_000  # bytes; what is larger is mostly dropped unread and costs a chunk no time

Item = TypeVar("Item")
Found = TypeVar("Found")


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


def demand_usable(entries: Iterable[Found], place: str, way_out: str) -> Iterator[Found]:
    """The entries of a source (each with repo, path and reason).

    Raises: Refusal after the last of them when every one has a reason to be dropped.
    """
    counts, is_usable = Counts(), False
    for entry in entries:
        is_usable = is_usable or not entry.reason
        if not is_usable:
            name = RawFile(entry.repo, entry.path, 0, bytes).name
            counts.drop(entry.reason, 1, 0, [name])
        yield entry
    if not is_usable:
        found = counts.told() or "it is empty"
        raise Refusal(f"sources: {place} holds nothing that can be read ({found}); {way_out}.")


def list_folder(
    path: str, repo: str = "", depth: int = 0, output_dir: Path | None = None
) -> Iterator[list[list]]:
    """Chunks of a folder: first what lies in none of its repositories, as one repository of its
    own, then the repositories in order.

    Args: repo: the name of all, as one repository; depth: see data_prep.layout, 0 looks for .git;
    output_dir: a folder that is passed over, uncounted.
    Raises: Refusal when `path` is no folder, or nothing in it can be read.
    """
    root = existing_folder(path, output_dir)
    own = [root / place] if output_dir and (place := layout.place_in(output_dir, root)) else []
    inner = [] if repo else _repositories_in(root, depth)
    inner = [f for f in inner if not own or layout.place_in(f, own[0]) is None]
    name = repo or layout.name_of(root, root)
    names = [layout.name_of(folder, root) for folder in inner]
    layout.log_found(root, names or [name])
    if not repo and not inner and layout.may_hold_several(root):
        logger.info("%s: no folder has a .git; add depth=1 if each is a repository", root)
    walks = [walk(root, name, skipped=[*inner, *own])]
    walks += [walk(folder, name, skipped=own) for folder, name in zip(inner, names, strict=True)]
    entries = itertools.chain.from_iterable(walks)
    usable = demand_usable(entries, path, "check its path and who may read it")
    return in_chunks((entry.as_list(), entry.size) for entry in usable)


def _repositories_in(root: Path, depth: int) -> list[Path]:
    if depth:
        return layout.folders_at(root, depth)
    found = layout.repositories_below(root)
    return [] if found == [root] else found


def existing_folder(path: str, output_dir: Path | None = None) -> Path:
    """`path` as a Path without "~".

    Raises: Refusal when it is no folder, may not be read, or lies in `output_dir`.
    """
    root = os.path.expanduser(path)
    if not os.path.isdir(root):
        what = "is a file, not a folder" if os.path.exists(root) else "does not exist"
        raise Refusal(f"sources: the folder {path} {what}; check its path.")
    if not os.access(root, os.R_OK | os.X_OK):
        raise Refusal(f"sources: the folder {path} may not be read; ask its owner, or copy it.")
    if output_dir and layout.place_in(Path(root), output_dir):
        raise Refusal(f"sources: the folder {path} lies in output_dir {output_dir}; give another.")
    return Path(root)


def license_of(folder: Path) -> str:
    """SPDX guess from the licence files that lie right in `folder` and may be read."""
    with suppress(OSError):  # the walk counts a folder that is unreadable
        names = sorted(filter(licenses.is_license_file, os.listdir(folder)))
        for file in (folder / name for name in names):
            if (found := licenses.guess(_head_of(file))) != licenses.UNKNOWN:
                return found
    return licenses.UNKNOWN


def _head_of(file: Path) -> str:
    """The first characters of a licence file; "" when it is no file or may not be read."""
    try:
        if not stat.S_ISREG(os.lstat(file).st_mode):
            return ""
        with file.open("rb") as stream:
            return stream.read(licenses.NUM_CHARACTERS).decode("utf-8", errors="replace")
    except OSError as error:
        reason_unread(error)
        logger.warning("%s cannot be read (%s): its licence is unknown", file, error.strerror)
        return ""


def walk(
    root: Path,
    repo: str,
    license: str = "",
    commit: str = "",
    skipped: Iterable[Path] = (),
) -> Iterator[Entry]:
    """Every file below `root` in a fixed order, one folder in memory at a time.

    Args: license: looked for in `root` when not given; skipped: folders below `root` that are
    neither entered nor counted.
    """
    license = license or license_of(root)
    passed = {os.path.join(root, os.path.relpath(folder, root)) for folder in skipped}
    folders = [str(root)]
    while folders:
        folder = folders.pop()
        path = "" if folder == str(root) else os.path.relpath(folder, root) + os.sep
        try:
            with os.scandir(folder) as listing:
                children = sorted(listing, key=lambda child: child.name)
        except OSError as error:
            yield _folder_entry(repo, path, folder, license, commit, reason_unread(error))
            continue
        names = {child.name for child in children}
        if path and layout.is_left_out(os.path.basename(folder), names):
            yield _folder_entry(repo, path, folder, license, commit, FOLDER_LEFT_OUT)
            continue
        inner = []
        for child in children:
            if not _is_folder(child):
                yield entry_of(child.path, path + child.name, repo, license, commit)
            elif child.name not in layout.BOOKKEEPING and child.path not in passed:
                inner.append(child.path)
        folders += reversed(inner)


def _is_folder(child: os.DirEntry) -> bool:
    try:
        return child.is_dir(follow_symlinks=False)
    except OSError:  # the disk had to be asked and did not tell; it is counted as a file
        return False


def _folder_entry(
    repo: str, path: str, folder: str, license: str, commit: str, reason: str
) -> Entry:
    return Entry(repo, path.replace(os.sep, "/"), folder, 0, 0, license, commit, reason)


def entry_of(file: str, path: str, repo: str, license: str, commit: str) -> Entry:
    """What the folder says of one file, with the reason for dropping it, if there is one."""
    path = path.replace(os.sep, "/")
    try:
        status = os.lstat(file)
    except OSError as error:
        return Entry(repo, path, file, 0, 0, license, commit, reason_unread(error))
    reason = ""
    if stat.S_ISLNK(status.st_mode):
        reason = "link"
    elif not stat.S_ISREG(status.st_mode):
        reason = "not_a_regular_file"
    elif licenses.is_license_file(os.path.basename(file)) and not os.access(file, os.R_OK):
        reason = "unreadable"  # others are tried when they are read; this one was, for its licence
    size = 0 if reason else status.st_size
    return Entry(repo, path, file, size, status.st_mtime_ns, license, commit, reason)


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
