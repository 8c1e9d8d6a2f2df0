"""One owner of an output folder at a time: a second start is refused while the first is at work.

The owner is a file, .owner.json, that names host, process and start, and whose time a thread moves
every few seconds. A holder on this machine is gone when its process is; a suspended one is alive.
Of one elsewhere (another host, another container) only the file's time can be seen: where that
stands still for a minute the folder is taken over. Changes of the owner are made under a lock that
the kernel drops with its process; where the disk has no such locks, a second look after a moment
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
FILES = frozenset({OWNER, CHANGING})  # in the folder, but no part of what it holds
REFRESH_SECONDS = 5.0
PATIENCE_SECONDS = 60.0  # twelve signs of life, of which an NFS client may see some late
SETTLE_SECONDS = 2.0  # on a disk without locks, until everyone who meant to take over has done it
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class Owner:
    """What the owner file says; all empty of a file that is still being written.

    boot, namespace: of the machine and of the container. began: of the process, in ticks since the
    machine's start. inode: of the file, so that a copy of it in a copied folder is known as one.
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
            return "a start that has not said who it is"
        return f"{self.command} (pid {self.pid} on host {self.host}, since {self.since})"


@dataclass(frozen=True)
class Sighting:
    """The owner file at one moment."""

    owner: Owner
    inode: int
    modified: int


@contextmanager
def owned(
    folder: Path, patience: float = PATIENCE_SECONDS, refresh: float = REFRESH_SECONDS
) -> Iterator[None]:
    """Hold an output folder, which is made if need be, for as long as the block runs.

    Args:
        patience: seconds for which a holder elsewhere may give no sign of life.
        refresh: seconds between our own signs of life.

    Raises: Refusal naming the holder when somebody else is at work in the folder.
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
        if os.getpid() == mine.pid:  # a forked child leaves by this way too
            is_over.set()
            thread.join()
            with suppress(OSError):  # a dead process's file blocks nobody; what ended us matters
                _release(folder, mine)
                if is_new and not any(folder.iterdir()):
                    folder.rmdir()


def holder_of(folder: Path) -> str:
    """What tells the present owner of a folder from every other one; empty where there is none."""
    found = _look(folder)
    return "" if found is None else found.owner.token or str(found.inode)


def contents(folder: Path) -> list[Path]:
    """What lies in a folder besides the marks of its owner; nothing when there is no folder."""
    there = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in there if path.name not in FILES)


def _make(folder: Path) -> bool:
    """Make the folder; whether it was not there. Raises: Refusal where a file is in the way."""
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise Refusal(f"{folder} is no folder, or lies in a file; give another.") from None
    return is_new


# ---- taking and giving back ----------------------------------------------------------------------


def _take(folder: Path, patience: float) -> Owner:
    """Become the owner. Raises: Refusal when there is one who is alive."""
    watched: Sighting | None = None  # the holder who gave no sign of life for so long
    while True:
        with _changing(folder) as has_lock:
            found = _look(folder)
            state = "gone" if found is None or found == watched else _state_of(found)
            mine = _replace(folder, found) if state == "gone" else None
        if mine is not None:
            break
        if state == "alive":
            raise Refusal(_is_in_use(folder, found))
        if state == "unseen":
            watched = _watch(folder, found, patience)
    if not has_lock:
        time.sleep(SETTLE_SECONDS)
        found = _look(folder)
        if found is None or found.owner.token != mine.token:
            raise Refusal(_is_in_use(folder, found))
    return mine


def _watch(folder: Path, found: Sighting, patience: float) -> Sighting:
    """Wait as long as a holder elsewhere may be silent, and return it.

    Raises: Refusal as soon as it gives a sign of life.
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
        if now is None:  # it has ended and taken its file away
            break
        if now != found:
            raise Refusal(_is_in_use(folder, now))
    return found


def _is_in_use(folder: Path, found: Sighting | None) -> str:
    who = found.owner if found else "another start, which was faster"
    return f"{folder} is in use by {who}; wait until it has ended, stop it, or give another folder."


def _replace(folder: Path, found: Sighting | None) -> Owner | None:
    """Write our owner file, in place of one that was left; None when somebody was faster."""
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
    """Give signs of life; end this process when the folder has been taken over from it."""
    while not is_over.wait(refresh):
        try:
            found = _look(folder)
            if found is not None and found.owner.token not in ("", mine.token):
                _give_way(folder, found.owner)
            if found is not None:
                os.utime(folder / OWNER)
        except OSError:  # a disk that is away for a while; whoever writes the results will say so
            continue


def _give_way(folder: Path, other: Owner) -> None:
    """Two writers would spoil the folder, and the other one has begun."""
    sys.stderr.write(
        f"{program_name()}: error: {folder} was taken over by {other} while this process stood "
        "still for too long; it ends here and writes nothing more.\n"
    )
    sys.stderr.flush()
    os._exit(EXIT_REFUSED)


@contextmanager
def _changing(folder: Path) -> Iterator[bool]:
    """Keep others from changing the owner meanwhile; False where the disk has no locks."""
    path = folder / CHANGING
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            has_lock = _lock(descriptor)
            if has_lock and not _is_at(path, descriptor):
                continue  # who had it before has removed it, and others lock a newer one
            try:
                yield has_lock
            finally:
                path.unlink(missing_ok=True)
                if has_lock:
                    fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for a child forked meanwhile
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
    """The owner file; None when there is none. Opened anew: a network disk then asks its server."""
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
    """Whether the holder lives, as far as this process can see.

    A copy of an owner file says nothing of its folder: it counts as that of somebody elsewhere.
    """
    owner = found.owner
    is_here = bool(_boot()) and (owner.boot, owner.namespace) == (_boot(), _namespace())
    if not is_here or owner.inode != found.inode:
        return "unseen"
    if _began(owner.pid) == owner.began:
        return "alive"
    return "unseen" if _is_hidden(owner.pid) else "gone"


def _began(pid: int) -> str:
    """When a process began; empty when it is gone, or dead and only not yet waited for."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, *fields = text.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]


def _is_hidden(pid: int) -> bool:
    """Whether it may be the process of another user, which some machines do not show (hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return not Path(f"/proc/{pid}").exists()
    except ProcessLookupError:
        return False
    return False


def _boot() -> str:
    """This start of this machine; empty in sandboxes that do not tell it."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _namespace() -> str:
    """Where process numbers count: those of another container are not ours."""
    return os.readlink("/proc/self/ns/pid") if os.path.lexists("/proc/self/ns/pid") else ""
