"""Files of git repositories as their HEAD commit has them, work tree or bare, without a checkout.

What is not committed is not read, so that the commit tells exactly what went in. Links and
submodules are never followed. A repository that cannot be read, or a file that git lacks, is
counted and passed over. Runs the git program (data_prep.git_process); holds no git of its own.
"""

import itertools
import logging
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data_prep import layout, licenses
from data_prep.document import RawFile, Unreadable
from data_prep.git_process import MISSING, Contents, end, records, start
from data_prep.on_disk import FOLDER_LEFT_OUT, demand_usable, existing_folder, in_chunks
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

ASKED_AT_ONCE = 500  # objects: neither the names nor the answers fill a pipe, 64 kB
LINK_MODE, SUBMODULE_MODE = "120000", "160000"
PARTIAL = r"^(extensions\.partialclone|remote\..*\.promisor)$"  # settings of a partial clone


@dataclass(frozen=True)
class Blob:
    """A file of a commit; `size` in bytes."""

    git_dir: str
    repo: str
    path: str
    sha: str
    size: int
    license: str
    commit: str
    reason: str


def list_trees(path: str, output_dir: Path | None = None) -> Iterator[list[list]]:
    """Chunks of the repository `path`, or of all that lie below it, in order of their paths.

    Args: output_dir: a folder that is passed over, uncounted, even if files in it are committed.
    Raises: Refusal when there is no repository, or nothing can be read from any.
    """
    root = existing_folder(path, output_dir)
    folders = layout.repositories_below(root, bare=True)
    if not folders:
        raise Refusal(
            f"sources: {path} is no git repository and has none in it; use type=folder for files "
            "without git."
        )
    names = [layout.name_of(folder, root) for folder in folders]
    layout.log_found(root, names)
    outputs = [output_dir and layout.place_in(output_dir, folder) for folder in folders]
    blobs = itertools.chain.from_iterable(map(_list_repository, folders, names, outputs))
    way_out = "commit something, clone without --filter, or use type=folder"
    usable = demand_usable(blobs, path, way_out)
    return in_chunks(([*vars(blob).values()], blob.size) for blob in usable)


def _list_repository(folder: Path, repo: str, output: Path | None) -> Iterator[Blob]:
    """The files of one repository without those below `output`; where git cannot read it, one
    that says why, and a line of the log.
    """
    git_dir = layout.git_dir_of(folder) or folder
    try:
        _demand_no_pipe(git_dir)
        for blob in _list_blobs(git_dir, repo):
            if output is None or not Path(blob.path).is_relative_to(output):
                yield blob
    except Unreadable as error:
        logger.warning("%s is passed over as %s: %s", folder, error.reason, error)
        yield Blob(str(git_dir), repo, "", "", 0, "", "", error.reason)


def _demand_no_pipe(git_dir: Path) -> None:
    """Raises: Unreadable where git would open a device, or a pipe and wait for ever."""
    named = git_dir
    if git_dir.is_file():  # of a linked work tree or a submodule: "gitdir: <folder>"
        with suppress(OSError), git_dir.open("rb") as stream:
            line = os.fsdecode(stream.read(4_096)).removeprefix("gitdir:").strip()
            named = git_dir.parent / line.replace("\0", "")
    files = (Path(folder, name) for folder, _, names in os.walk(named) for name in names)
    for file in (git_dir, *files):
        if layout.is_pipe(file):
            raise Unreadable("unreadable_repository", f"{file} is no file but a pipe or a device")


def _list_blobs(git_dir: Path, repo: str) -> Iterator[Blob]:
    """Every file of HEAD, read from git as it comes."""
    commit = b"".join(records(git_dir, "rev-parse", "--verify", "HEAD")).decode().strip()
    license, lacking = _license(git_dir, commit), _lacking(git_dir, commit)
    marked, left_out = _marked(git_dir, commit), ""

    def blobs() -> Iterator[Blob]:
        nonlocal left_out
        for record in records(git_dir, "ls-tree", "-r", "-z", "--full-tree", commit):
            head, _, name = record.partition(b"\t")
            mode, _, sha = head.decode().split()
            path = os.fsdecode(name)
            reason = {LINK_MODE: "link", SUBMODULE_MODE: "submodule"}.get(mode, "")
            if folder := _left_out_folder(path, marked):
                if folder == left_out:
                    continue
                path = left_out = folder
                reason = FOLDER_LEFT_OUT
            elif not reason and sha in lacking:
                reason = MISSING
            yield Blob(str(git_dir), repo, path, sha, 0, license, commit, reason)

    return _with_sizes(git_dir, blobs())


def _left_out_folder(path: str, marked: set[str]) -> str:
    """The outermost folder of a path that holds others' work, with a slash; "" for none."""
    parts = path.split("/")
    for position, name in enumerate(parts[:-1]):
        folder = "/".join(parts[: position + 1])
        if name in layout.BOOKKEEPING or layout.is_left_out(name) or folder in marked:
            return folder + "/"
    return ""


def _marked(git_dir: Path, commit: str) -> set[str]:
    """The folders below the top of a tree whose contents mark them as others' work."""
    telling, children = layout.MARKS | layout.BARE, defaultdict(set)
    for name in records(git_dir, "ls-tree", "-r", "-z", "--name-only", "--full-tree", commit):
        parts = os.fsdecode(name).split("/")
        for position, part in enumerate(parts):
            if position and part in telling:
                children["/".join(parts[:position])].add(part)
    return {folder for folder, names in children.items() if layout.is_left_out("", names)}


def _lacking(git_dir: Path, commit: str) -> set[str]:
    """The objects of a commit that a partial clone lacks; git would end when asked for one."""
    try:
        _ = list(records(git_dir, "config", "--get-regexp", PARTIAL))
    except Unreadable:  # no such setting
        return set()
    listing = b"".join(
        records(git_dir, "rev-list", "--objects", "--missing=print", f"{commit}^{{tree}}")
    )
    lacking = {line[1:].decode() for line in listing.splitlines() if line.startswith(b"?")}
    if lacking:
        what = "%s is a partial clone and lacks %d objects of its HEAD; clone without --filter"
        logger.warning(what, git_dir, len(lacking))
    return lacking


def _with_sizes(git_dir: Path, blobs: Iterator[Blob]) -> Iterator[Blob]:
    """The blobs with their sizes; one that git does not have is missing."""
    process = start(git_dir, "cat-file", "--batch-check=%(objectsize)", stdin=subprocess.PIPE)
    try:
        while group := list(itertools.islice(blobs, ASKED_AT_ONCE)):
            asked = [blob.sha for blob in group if not blob.reason]
            with suppress(BrokenPipeError):  # git has ended, and answers nothing below
                process.stdin.write("".join(f"{sha}\n" for sha in asked).encode())
                process.stdin.flush()
            for blob in group:
                yield blob if blob.reason else _sized(blob, process.stdout.readline())
    finally:
        end(process)


def _sized(blob: Blob, answer: bytes) -> Blob:
    if not answer:
        raise Unreadable("unreadable_repository", f"git ended when asked for {blob.sha}")
    size = answer.strip()
    return replace(blob, size=int(size)) if size.isdigit() else replace(blob, reason=MISSING)


def _license(git_dir: Path, commit: str) -> str:
    """SPDX guess from the licence files at the top of the tree that git has."""
    for record in records(git_dir, "ls-tree", "-z", commit):
        head, _, name = record.partition(b"\t")
        if head.startswith(b"100") and licenses.is_license_file(os.fsdecode(name)):
            with suppress(Unreadable):
                text = b"\0".join(records(git_dir, "cat-file", "blob", head.split()[2].decode()))
                found = licenses.guess(text.decode("utf-8", errors="replace"))
                if found != licenses.UNKNOWN:
                    return found
    return licenses.UNKNOWN


def read(items: list[list]) -> Iterator[RawFile]:
    """The files of a chunk; one git process for each repository gives their bytes when asked."""
    for git_dir, group in itertools.groupby(items, key=lambda item: item[0]):
        contents = Contents(git_dir)
        for item in group:
            blob = Blob(*item)
            yield RawFile(
                repo=blob.repo,
                path=blob.path,
                size=blob.size,
                load=partial(contents.load, blob.sha),
                license=blob.license,
                commit=blob.commit,
                reason=blob.reason,
            )
        contents.close()
