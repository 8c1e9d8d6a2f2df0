"""Files of git repositories as their HEAD commit has them, work tree or bare, without a checkout.

What is not committed is not read, so that the commit tells exactly what went in. Links and
submodules are never followed. Runs the git program; holds no git of its own. A repository may come
from anybody: nothing that its configuration names is run, and nothing is fetched for it.
"""

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_prep import licenses
from data_prep.document import RawFile
from data_prep.on_disk import SKIPPED_FOLDERS, existing_folder, in_chunks, is_utf8
from hugcoder.refusal import Refusal

READ_BYTES = 1 << 20
# A partial clone fetches what it lacks when it is asked for it, by a command that its config may
# name. Two locks, for a git before 2.39.4 knows only the second.
ENVIRONMENT = {
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",  # no transport has this name
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",  # else a blob is not the one that its name and commit promise
    "LC_ALL": "C",
}
# Commands that a config may name beside a remote's, none of which reading needs
COMMANDS_OF_A_CONFIG = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.sshCommand": "false",
    "core.gitProxy": "false",
    "core.askPass": "false",
    "core.alternateRefsCommand": "false",
    "credential.helper": "",
    "protocol.allow": "never",
    "gc.auto": "0",
    "maintenance.auto": "false",
}
LINK_MODE, SUBMODULE_MODE = b"120000", b"160000"


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


def list_trees(path: str) -> Iterator[list[list]]:
    """Chunks of one repository, or of all that lie right in a folder, in order of their names.

    Raises: Refusal when there is none, or git cannot read one.
    """
    root = existing_folder(path)
    children = sorted(child for child in root.iterdir() if not child.is_symlink())
    git_dirs = [found for found in map(_git_dir, [root]) if found]
    git_dirs = git_dirs or [found for found in map(_git_dir, children) if found]
    if not git_dirs:
        raise Refusal(
            f"sources: {path} is no git repository and has none right in it; use type=folder for "
            "files without git."
        )
    blobs = itertools.chain.from_iterable(map(_list_blobs, git_dirs))
    return in_chunks(([*vars(blob).values()], blob.size) for blob in blobs)


def _git_dir(folder: Path) -> Path | None:
    """Where git keeps the repository that `folder` is, or None when it is none."""
    if (folder / ".git").exists():
        return folder / ".git"
    is_bare = (folder / "HEAD").is_file() and (folder / "objects").is_dir()
    return folder if is_bare else None


def _command(git_dir: Path | str, *words: str) -> list[str]:
    # named by its folder, so that git never takes a repository further up for a broken one
    settings = COMMANDS_OF_A_CONFIG | {"safe.directory": str(git_dir)}
    pairs = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return ["git", "--no-pager", f"--git-dir={git_dir}", *pairs, *words]


def _start(git_dir: Path | str, *words: str, stdin: int | None = None) -> subprocess.Popen[bytes]:
    # without ours, which in a hook of git name another repository and its objects
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        return subprocess.Popen(
            _command(git_dir, *words),
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=inherited | ENVIRONMENT,
        )
    except FileNotFoundError:
        raise Refusal(
            "sources: git is not installed; install it, or use type=folder, which needs none."
        ) from None


def _run(git_dir: Path, *words: str) -> bytes:
    process = _start(git_dir, *words)
    output, errors = process.communicate()
    _check(process, git_dir, errors)
    return output


def _check(process: subprocess.Popen[bytes], git_dir: Path | str, errors: bytes) -> None:
    if process.returncode:
        said = " ".join(errors.decode(errors="replace").split())
        if "promisor remote" in said or "not allowed" in said:  # a transport, by our environment
            raise Refusal(
                f"sources: {git_dir} is a partial clone and lacks files of its HEAD, which are not "
                "fetched here; clone it without --filter, or use type=folder."
            )
        raise Refusal(
            f"sources: git cannot read HEAD of {git_dir} ({said[:200]}); commit something, repair "
            "it, or use type=folder."
        )


def _list_blobs(git_dir: Path) -> Iterator[Blob]:
    """Every file of HEAD, read from git as it comes."""
    folder = git_dir.parent if git_dir.name == ".git" else git_dir
    repo = folder.absolute().name.removesuffix(".git")
    commit = _run(git_dir, "rev-parse", "--verify", "HEAD").decode().strip()
    license = _license(git_dir, commit)
    process = _start(git_dir, "ls-tree", "-r", "-l", "-z", "--full-tree", commit)
    for record in _records(process):
        head, _, name = record.partition(b"\t")
        mode, _, sha, size = head.split()
        path = os.fsdecode(name)
        if SKIPPED_FOLDERS.intersection(path.split("/")):
            continue
        reason = "" if is_utf8(path) else "name_not_utf8"
        reason = {LINK_MODE: "link", SUBMODULE_MODE: "submodule"}.get(mode, reason)
        is_read = reason not in ("link", "submodule")
        if is_read and size == b"BAD":
            raise _lost(sha.decode(), path, git_dir)
        num_bytes = int(size) if is_read else 0
        yield Blob(str(git_dir), repo, path, sha.decode(), num_bytes, license, commit, reason)
    _, errors = process.communicate()
    _check(process, git_dir, errors)


def _records(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What a process writes between NUL bytes, a block in memory at a time."""
    rest = b""
    while block := process.stdout.read(READ_BYTES):
        *records, rest = (rest + block).split(b"\0")
        yield from records


def _license(git_dir: Path, commit: str) -> str:
    """SPDX guess from the licence files at the top of the tree."""
    for record in _run(git_dir, "ls-tree", "-z", commit).split(b"\0"):
        head, _, name = record.partition(b"\t")
        if head.startswith(b"100") and licenses.is_license_file(os.fsdecode(name)):
            text = _run(git_dir, "cat-file", "blob", head.split()[2].decode())
            found = licenses.guess(text.decode("utf-8", errors="replace"))
            if found != licenses.UNKNOWN:
                return found
    return licenses.UNKNOWN


def read(items: list[list]) -> Iterator[RawFile]:
    """The files of a chunk; one git process a repository gives the bytes of those asked for."""
    for git_dir, group in itertools.groupby(items, key=lambda item: item[0]):
        process = _start(git_dir, "cat-file", "--batch", stdin=subprocess.PIPE)
        for item in group:
            blob = Blob(*item)
            yield RawFile(
                repo=blob.repo,
                path=blob.path,
                size=blob.size,
                load=partial(_load, process, blob),
                license=blob.license,
                commit=blob.commit,
                reason=blob.reason,
            )
        process.communicate()


def _load(process: subprocess.Popen[bytes], blob: Blob) -> bytes:
    """The bytes of a blob. Raises: Refusal when git has lost it."""
    with suppress(BrokenPipeError):  # git has ended, and answers nothing below
        process.stdin.write(blob.sha.encode() + b"\n")
        process.stdin.flush()
    header = process.stdout.readline().split()
    if len(header) != 3:
        raise _lost(blob.sha, blob.path, blob.git_dir)
    return process.stdout.read(int(header[2]) + 1)[:-1]


def _lost(sha: str, path: str, git_dir: Path | str) -> Refusal:
    return Refusal(
        f"sources: git has no object {sha} ({path}) in {git_dir}; fetch the whole history or use "
        "type=folder."
    )
