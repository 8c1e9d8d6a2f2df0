"""Gives an output folder one owner at a time: a second start is refused while the first works.

The owner is a file, .owner.json, that names host, process and start. A thread touches it every few
seconds. An owner on this machine is gone when its process is gone; a suspended process is alive. Of
an owner elsewhere (another host, another container) only the file's time can be seen: if it does
not change for a minute, the folder is taken over. The owner file is changed under a lock that the
kernel drops when the process ends; if the disk has no such locks, a second look after a moment
decides. No clock is read: times of the disk are only compared with each other.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from hugcoder.refusal import EXIT_REFUSED, Refusal, program_name

logger = logging.getLogger(__name__)

OWNER, CHANGING = ".owner.json", ".owner.lock"
FILES = frozenset({OWNER, CHANGING})  # in the folder, but not part of its content
REFRESH_SECONDS = 5.0
PATIENCE_SECONDS = 60.0  # twelve signs of life; an NFS client may see some of them late
SETTLE_SECONDS = 2.0  # on a disk without locks, until all starts that take over have written
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class Owner:
    """Holds what the owner file says; empty while the file is still being written.

    boot: the machine's start. namespace: the container. began: the start of the process, in ticks
    since the machine's. inode: that of the file, which tells it from its copy in a copied folder.
    """

    host: str = ""
    boot: str = ""
    namespace: str = ""
    pid: int = 0
    began: str = ""
    since: str = ""
    command: str = ""
    inode: int = 0
    token: str = ""

    def __str__(self) -> str:
        if not self.token:
            return "a start whose owner file names nobody yet"
        return f"{self.command} (pid {self.pid} on host {self.host}, since {self.since})"


@dataclass(frozen=True)
class Sighting:
    """Holds the owner file as it was at one moment."""

    owner: Owner
    inode: int
    modified: int


@contextmanager
def owned(
    folder: Path, patience: float = PATIENCE_SECONDS, refresh: float = REFRESH_SECONDS
) -> Iterator[None]:
    """Own an output folder while the block runs; make the folder if needed.

    Args:
        patience: seconds without a sign of life after which an owner elsewhere counts as gone.
        refresh: seconds between our own signs of life.

    Raises: Refusal naming the owner when another process works in the folder.
    """
    is_new = _make(folder)
    mine = _take(folder, patience)
    is_over = threading.Event()
    words = (folder, mine, is_over, refresh)
    thread = threading.Thread(target=_keep, args=words, name="owner of the folder", daemon=True)
    thread.start()
    try:
        yield
    finally:
        if os.getpid() == mine.pid:  # a forked child leaves this block too
            is_over.set()
            thread.join()
            with suppress(OSError):  # a leftover file blocks nobody; keep the error that ended us
                _release(folder, mine)
                if is_new and not any(folder.iterdir()):
                    folder.rmdir()


def holder_of(folder: Path) -> str:
    """Return an id of the present owner of a folder; "" when there is none."""
    found = _look(folder)
    return "" if found is None else found.owner.token or str(found.inode)


def contents(folder: Path) -> list[Path]:
    """List a folder without its owner files; an absent folder is empty."""
    there = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in there if path.name not in FILES)


def _make(folder: Path) -> bool:
    """Make the folder; tell whether it is new. Raises: Refusal when a file is in the way."""
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise Refusal(f"{folder} is not a folder, or lies in a file; give another.") from None
    return is_new


# ---- taking and giving back ----------------------------------------------------------------------


def _take(folder: Path, patience: float) -> Owner:
    """Become the owner. Raises: Refusal when there is an owner that is alive."""
    watched: Sighting | None = None  # an owner that gave no sign of life
    while True:
        with _changing(folder) as has_lock:
            found = _look(folder)
            state = "gone" if found is None or found == watched else _state_of(found)
            mine = _replace(folder, found) if state == "gone" else None
        if mine is not None:
            break
        if state == "alive":
            raise Refusal(_in_use_sentence(folder, found))
        if state == "unseen":
            watched = _watch(folder, found, patience)
    if not has_lock:
        time.sleep(SETTLE_SECONDS)
        found = _look(folder)
        if found is None or found.owner.token != mine.token:
            raise Refusal(_in_use_sentence(folder, found))
    return mine


def _watch(folder: Path, found: Sighting, patience: float) -> Sighting:
    """Wait for `patience` seconds, and return an owner that gave no sign of life.

    Raises: Refusal as soon as it gives one.
    """
    logger.warning(
        "%s is held by %s, whose process cannot be seen from here; waiting at most %g s for a sign "
        "that it is at work",
        folder,
        found.owner,
        patience,
    )
    until = time.monotonic() + patience
    while time.monotonic() < until:
        time.sleep(min(1.0, patience / 20))
        now = _look(folder)
        if now is None:  # it has ended and removed its file
            break
        if now != found:
            raise Refusal(_in_use_sentence(folder, now))
    return found


def _in_use_sentence(folder: Path, found: Sighting | None) -> str:
    who = found.owner if found else "another start, which was faster"
    return f"{folder} is in use by {who}; wait until it has ended, stop it, or give another folder."


def _replace(folder: Path, found: Sighting | None) -> Owner | None:
    """Write our owner file, in place of a leftover one; None when another start was faster."""
    if found is not None:
        logger.warning("%s is taken over from %s, which is gone", folder, found.owner)
        (folder / OWNER).unlink(missing_ok=True)
    try:
        descriptor = os.open(folder / OWNER, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:  # only on a disk without locks
        return None
    mine = Owner(
        host=socket.gethostname(),
        boot=_boot(),
        namespace=_namespace(),
        pid=os.getpid(),
        began=_began(os.getpid()),
        since=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        command=program_name(),
        inode=os.fstat(descriptor).st_ino,
        token=os.urandom(8).hex(),
    )
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(mine), file)
    except OSError:  # a full disk
        (folder / OWNER).unlink()
        raise
    return mine


def _release(folder: Path, mine: Owner) -> None:
    with _changing(folder):
        found = _look(folder)
        if found is not None and found.owner.token == mine.token:
            (folder / OWNER).unlink()


def _keep(folder: Path, mine: Owner, is_over: threading.Event, refresh: float) -> None:
    """Give signs of life; end this process when another one has taken over the folder."""
    while not is_over.wait(refresh):
        try:
            found = _look(folder)
            if found is not None and found.owner.token not in ("", mine.token):
                _give_way(folder, found.owner)
            if found is not None:
                os.utime(folder / OWNER)
        except OSError:  # the disk may be away for a while; writing the results will report it
            continue


def _give_way(folder: Path, other: Owner) -> None:
    """End this process: two writers would spoil the folder, and the other one has begun."""
    sys.stderr.write(
        f"{program_name()}: error: {folder} was taken over by {other} while this process stood "
        "still for too long; it ends here and writes nothing more.\n"
    )
    sys.stderr.flush()
    os._exit(EXIT_REFUSED)


@contextmanager
def _changing(folder: Path) -> Iterator[bool]:
    """Lock changes of the owner; yields False when the disk has no locks."""
    path = folder / CHANGING
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            has_lock = _lock(descriptor)
            if has_lock and not _is_at(path, descriptor):
                continue  # the previous holder removed this lock file; others lock a newer one
            try:
                yield has_lock
            finally:
                path.unlink(missing_ok=True)
                if has_lock:
                    fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child forked meanwhile holds it too
            return
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


# ---- looking at one ------------------------------------------------------------------------------


def _look(folder: Path) -> Sighting | None:
    """Read the owner file; None without one. Opening it makes a network disk ask its server."""
    try:
        with (folder / OWNER).open("rb") as file:
            status, content = os.fstat(file.fileno()), file.read()
    except FileNotFoundError:
        return None
    try:
        owner = Owner(**json.loads(content))
    except (ValueError, TypeError, RecursionError):  # cut off, or being written
        owner = Owner()
    return Sighting(owner, status.st_ino, status.st_mtime_ns)


def _state_of(found: Sighting) -> Literal["alive", "gone", "unseen"]:
    """Tell whether the owner is alive, as far as this process can see.

    A copied owner file says nothing about its folder: it counts as that of an owner elsewhere.
    """
    owner = found.owner
    is_here = bool(_boot()) and (owner.boot, owner.namespace) == (_boot(), _namespace())
    if not is_here or owner.inode != found.inode:
        return "unseen"
    if _began(owner.pid) == owner.began:
        return "alive"
    return "unseen" if _is_hidden(owner.pid) else "gone"


def _began(pid: int) -> str:
    """Return when a process began; "" when it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, *fields = text.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]


def _is_hidden(pid: int) -> bool:
    """Tell whether it may be another user's process, which some machines hide (hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return not Path(f"/proc/{pid}").exists()
    except ProcessLookupError:
        return False
    return False


def _boot() -> str:
    """Return the id of this start of this machine; "" in sandboxes that hide it."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _namespace() -> str:
    """Return the namespace of process numbers; another container has numbers of its own."""
    return os.readlink("/proc/self/ns/pid") if os.path.lexists("/proc/self/ns/pid") else ""
