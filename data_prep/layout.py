"""Which folders are repositories, and which hold nothing that a project's authors wrote.

A repository is a folder that holds .git, however deep it lies, and its name is its path from the
folder that the source names: "alpha", or "ann/alpha" in a layout of owners. What lies inside it is
part of it, other repositories too. Where there is no .git, `depth` says which folders are meant.
"""

import logging
import os
import stat
from collections.abc import Collection
from pathlib import Path

from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)

BOOKKEEPING = {".git", ".hg", ".svn", ".work"}  # of version control and of us: no file of a project
LEFT_OUT = {  # installed, fetched or made by tools
    *("node_modules", "bower_components", "site-packages", "dist-packages"),
    *(".venv", ".tox", ".nox", ".eggs", "__pycache__", ".ipynb_checkpoints"),
    *(".cache", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".gradle", ".terraform"),
}
# A virtual environment, a conda environment, a cache by bford.info/cachedir (cargo's target/)
MARKS = {"pyvenv.cfg", "conda-meta", "CACHEDIR.TAG"}
BARE = {"HEAD", "objects", "refs"}  # a bare git repository: files of git, not of a project
SHOWN = 5  # names in a line of the log
MAX_DEPTH = 9


def is_left_out(name: str, children: Collection[str] = ()) -> bool:
    """Whether a folder of that name, with files and folders of these names, holds others' work."""
    return name in LEFT_OUT or not MARKS.isdisjoint(children) or BARE.issubset(children)


def git_dir_of(folder: Path) -> Path | None:
    """Where git keeps the repository that `folder` is, or None when it is none."""
    if os.path.exists(folder / ".git"):
        return folder / ".git"
    is_bare = os.path.isfile(folder / "HEAD") and os.path.isdir(folder / "objects")
    return folder if is_bare else None


def repositories_below(root: Path, bare: bool = False) -> list[Path]:
    """The repositories from `root` down, in order of their paths; `root` alone when it is one.

    Args: bare: whether a repository without a work tree counts.
    """
    found, folders = [], [root]
    while folders:
        folder = folders.pop()
        if (git_dir := git_dir_of(folder)) and (bare or git_dir != folder):
            found.append(folder)
        elif folder == root or not is_left_out(folder.name, _names(folder)):
            folders += _folders(folder)
    return sorted(found)


def folders_at(root: Path, depth: int) -> list[Path]:
    """The folders `depth` levels below `root`, in order, without those hidden or left out.

    Raises: Refusal when there is none.
    """
    level = [root]
    for _ in range(depth):
        inner = [child for folder in level for child in _folders(folder)]
        level = [
            child
            for child in inner
            if not child.name.startswith(".") and not is_left_out(child.name, _names(child))
        ]
    if not level:
        raise Refusal(f"sources: depth is {depth}, and no folder lies so far below {root}.")
    return sorted(level)


def place_in(folder: Path, root: Path) -> Path | None:
    """Where `folder` lies below `root`, "." where they are one, links resolved; else None."""
    inner, outer = (Path(os.path.realpath(place)) for place in (folder, root))
    return inner.relative_to(outer) if inner.is_relative_to(outer) else None


def is_pipe(file: Path) -> bool:
    """Whether opening this may wait for ever, or do something: a pipe or a device. A socket,
    such as that of git's monitor of files, cannot be opened.
    """
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return False
    mode = status.st_mode
    if stat.S_ISCHR(mode):  # a link to /dev/null switches a file of git off
        return status.st_rdev != os.stat(os.devnull).st_rdev
    return stat.S_ISFIFO(mode) or stat.S_ISBLK(mode)


def own_name(folder: str | Path) -> str:
    """The last part of a path; for a .git, that of the repository it belongs to."""
    path = Path(os.path.abspath(folder))
    return (path.parent if path.name == ".git" else path).name or str(path)


def name_of(folder: Path, root: Path) -> str:
    """What a repository is called: its path from `root`, or its own name when it is `root`."""
    path = os.path.relpath(folder, root)
    name = own_name(root) if path == "." else path.replace(os.sep, "/")
    return name.removesuffix(".git")


def may_hold_several(root: Path) -> bool:
    """Whether a folder without .git has several folders and nothing beside them."""
    return not git_dir_of(root) and len(_names(root)) == len(_folders(root)) > 1


def log_found(root: Path, names: list[str]) -> None:
    """Say which repositories a source holds, so that a wrong guess is seen."""
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    noun = "repository" if len(names) == 1 else "repositories"
    logger.info("%s: found %s %s: %s", root, f"{len(names):,}", noun, shown)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # the walk counts it as unreadable
        return []


def _folders(folder: Path) -> list[Path]:
    """The folders right in `folder` that a repository may lie in; links are not followed."""
    children = (folder / name for name in _names(folder) if name not in BOOKKEEPING | LEFT_OUT)
    return [child for child in children if os.path.isdir(child) and not os.path.islink(child)]
