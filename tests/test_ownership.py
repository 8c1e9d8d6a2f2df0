"""One owner of an output folder at a time, with real processes; holders elsewhere are owner files
of another boot, with and without somebody who moves their time.
"""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from run_in_ranks import losses, metrics_of, status_of

from data_prep.__main__ import main as data_prep
from evaluation.__main__ import main as evaluation
from hugcoder import ownership
from hugcoder.model import manifest
from hugcoder.ownership import OWNER, contents, owned
from hugcoder.refusal import EXIT_REFUSED, EXIT_STOPPED, Refusal
from tokenizer.__main__ import main as tokenizer_main

ROOT = Path(__file__).resolve().parents[1]
HOLD = """
import sys, time
from pathlib import Path
from hugcoder.ownership import owned
from hugcoder.refusal import entry_point

def hold():
    with owned(Path(sys.argv[1]), refresh=0.05):
        print("holding", flush=True)
        sys.stdin.read()

entry_point(hold)()
"""
TAKE = """
import sys, time
from pathlib import Path
from hugcoder.ownership import owned
from hugcoder.refusal import Refusal

for round in range(int(sys.argv[2])):
    sys.stdin.readline()
    try:
        with owned(Path(sys.argv[1]) / str(round), patience=0.3, refresh=0.05):
            print("won", flush=True)
            sys.stdin.readline()
    except Refusal:
        print("refused", flush=True)
        sys.stdin.readline()
    print("out", flush=True)
"""


def start(program: str, *words) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@contextmanager
def holder(folder: Path):
    """Another process that owns the folder."""
    with start(HOLD, folder) as process:
        try:
            assert process.stdout.readline() == "holding\n", process.stderr.read()
            yield process
        finally:
            process.kill()


def is_refused(folder: Path, **settings) -> str:
    with pytest.raises(Refusal) as refusal, owned(folder, **settings):
        pass
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# ---- on this machine -----------------------------------------------------------------------------


def test_a_second_start_names_the_holder_and_its_place_is_free_when_it_ends(tmp_path):
    with holder(tmp_path) as process:
        since = json.loads((tmp_path / OWNER).read_text())["since"]
        sentence = is_refused(tmp_path)
        for word in (str(tmp_path), f"pid {process.pid}", os.uname().nodename, since):
            assert word in sentence
        process.stdin.close()
        assert process.wait() == 0
        assert list(tmp_path.iterdir()) == []
    with owned(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [OWNER]


def test_the_second_process_ends_with_exit_code_2_and_one_line(tmp_path):
    with holder(tmp_path), start(HOLD, tmp_path) as second:
        out, err = second.communicate()
        assert (second.returncode, out) == (EXIT_REFUSED, "")
        assert len(err.splitlines()) == 1
        assert "is in use by" in err


def test_a_killed_holder_does_not_block_even_before_it_was_waited_for(tmp_path, caplog):
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        while ownership._began(process.pid):
            time.sleep(0.01)
        began = time.monotonic()
        with owned(tmp_path):
            assert time.monotonic() - began < 2
            assert json.loads((tmp_path / OWNER).read_text())["pid"] == os.getpid()
        assert f"pid {process.pid}" in caplog.text


def test_a_suspended_holder_is_alive(tmp_path):
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        assert f"pid {process.pid}" in is_refused(tmp_path, patience=0.2)


def test_a_process_number_that_was_given_out_again_does_not_block(tmp_path):
    with owned(tmp_path):
        kept = json.loads((tmp_path / OWNER).read_text())
    write_owner(tmp_path, kept | {"pid": os.getppid(), "began": "1"})
    with owned(tmp_path):
        pass


@pytest.mark.parametrize("end", [Refusal("no"), SystemExit(75), KeyboardInterrupt(), OSError(5)])
def test_the_folder_is_given_back_however_the_work_ends(tmp_path, end):
    with pytest.raises(type(end)), owned(tmp_path / "new"):
        raise end
    assert not (tmp_path / "new").exists()


def test_a_forked_child_does_not_give_the_folder_back(tmp_path):
    with owned(tmp_path):
        child = os.fork()
        if not child:
            try:
                sys.exit(3)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        leaver = os.fork()
        if leaver:
            os.waitpid(leaver, 0)
            assert "pid" in is_refused(tmp_path)
    if not leaver:
        os._exit(0)  # having left the block as a child does that falls out of main()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_copied_while_it_was_held_is_free_after_a_look(tmp_path):
    with holder(tmp_path / "run"):
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        with owned(tmp_path / "copy", patience=0.3):
            pass
        assert "is in use by" in is_refused(tmp_path / "run")


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "folder"):
        assert "is not a folder, or lies in a file" in is_refused(path)


# ---- elsewhere -----------------------------------------------------------------------------------


def write_owner(folder: Path, facts: dict) -> None:
    """An owner file that says of itself where it is."""
    (folder / OWNER).touch()
    facts = facts | {"inode": (folder / OWNER).stat().st_ino}
    (folder / OWNER).write_text(json.dumps(facts))


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A folder that somebody on another machine holds."""
    owner = ownership.Owner(
        host="node-7", boot="another", pid=os.getpid(), since="then", command="train.py", token="t"
    )
    write_owner(tmp_path, dataclasses.asdict(owner))
    os.utime(tmp_path / OWNER, (0, 0))
    return tmp_path


@contextmanager
def beating(path: Path):
    """Somebody who moves the time of the file."""
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(0.1):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_a_lock_that_nobody_moves_does_not_block_for_ever(elsewhere, caplog):
    began = time.monotonic()
    with owned(elsewhere, patience=0.5):
        assert 0.5 <= time.monotonic() - began < 5
    assert "waiting at most 0.5 s for a sign" in caplog.text
    assert "is taken over from train.py (pid" in caplog.text
    assert "node-7" in caplog.text


def test_a_lock_that_somebody_moves_refuses_at_once(elsewhere):
    with beating(elsewhere / OWNER):
        began = time.monotonic()
        assert "on host node-7, since then" in is_refused(elsewhere, patience=20)
        assert time.monotonic() - began < 10
    assert json.loads((elsewhere / OWNER).read_text())["host"] == "node-7"


def test_a_holder_that_ends_while_it_is_watched_leaves_its_place(elsewhere):
    threading.Timer(0.3, (elsewhere / OWNER).unlink).start()
    with owned(elsewhere, patience=20):
        pass


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": 1, "more": 2}'])
def test_an_owner_file_that_cannot_be_read_is_watched_like_one_elsewhere(tmp_path, content):
    (tmp_path / OWNER).write_text(content)
    with beating(tmp_path / OWNER):
        assert "names nobody yet" in is_refused(tmp_path, patience=20)
    with owned(tmp_path, patience=0.3):
        pass


def test_the_owner_gives_signs_of_life(tmp_path):
    with owned(tmp_path, refresh=0.05):
        os.utime(tmp_path / OWNER, (0, 0))
        for _ in range(100):
            if (tmp_path / OWNER).stat().st_mtime > 0:
                return
            time.sleep(0.05)
    pytest.fail("the time of the owner file did not move")


def test_a_holder_that_was_taken_for_dead_ends_when_it_wakes(tmp_path):
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        kept = json.loads((tmp_path / OWNER).read_text())
        write_owner(tmp_path, kept | {"boot": "another"})  # as it looks from another machine
        with owned(tmp_path, patience=0.3):
            process.send_signal(signal.SIGCONT)
            assert process.wait(10) == EXIT_REFUSED
            assert "was taken over by" in process.stderr.read()
            assert json.loads((tmp_path / OWNER).read_text())["pid"] == os.getpid()


# ---- two takers at once --------------------------------------------------------------------------


def left_by(kind: str, folder: Path) -> None:
    """The state in which many find a folder at once."""
    folder.mkdir()
    if kind == "free":
        return
    boot = ownership._boot() if kind == "killed" else "another"
    namespace = ownership._namespace()
    owner = ownership.Owner(boot=boot, namespace=namespace, pid=2**22 + 1, began="1", token="x")
    write_owner(folder, dataclasses.asdict(owner))


@pytest.mark.parametrize("kind", ["free", "killed", "elsewhere"])
def test_of_many_processes_that_take_a_folder_at_once_exactly_one_wins(tmp_path, kind):
    num_rounds = 3 if kind == "elsewhere" else 15
    takers = [start(TAKE, tmp_path, num_rounds) for _ in range(4)]
    try:
        for number in range(num_rounds):
            left_by(kind, tmp_path / str(number))
            for taker in takers:
                taker.stdin.write("go\n")
                taker.stdin.flush()
            assert sorted(t.stdout.readline() for t in takers) == ["refused\n"] * 3 + ["won\n"]
            for taker in takers:
                taker.stdin.write("end\n")
                taker.stdin.flush()
            assert {taker.stdout.readline() for taker in takers} == {"out\n"}
            assert contents(tmp_path / str(number)) == []
    finally:
        for taker in takers:
            taker.kill()
            taker.communicate()


@pytest.mark.parametrize("kind", ["free", "killed"])
@pytest.mark.parametrize("has_locks", [True, False])
def test_of_many_threads_at_most_one_holds_a_folder_at_a_time(
    tmp_path, kind, has_locks, monkeypatch
):
    if not has_locks:
        monkeypatch.setattr(ownership, "SETTLE_SECONDS", 0.2)

        def no_locks(descriptor, operation):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(ownership.fcntl, "flock", no_locks)
    num_threads = 8

    def take(number: int) -> bool:
        together.wait()
        try:
            with owned(tmp_path / str(number), refresh=60):
                tries_over.wait()
                return True
        except Refusal:
            tries_over.wait()
            return False

    for number in range(5):
        left_by(kind, tmp_path / str(number))
        together, tries_over = threading.Barrier(num_threads), threading.Barrier(num_threads)
        with ThreadPoolExecutor(num_threads) as threads:
            won = list(threads.map(take, [number] * num_threads))
        assert sum(won) == 1


# ---- what the mark is no part of -----------------------------------------------------------------


def test_the_owner_file_enters_no_manifest_and_does_not_make_a_folder_foreign(tmp_path):
    (tmp_path / "weights").write_text("w")
    with owned(tmp_path):
        assert manifest.names_in(tmp_path) == ["weights"]
        assert contents(tmp_path) == [tmp_path / "weights"]
    assert contents(tmp_path / "nowhere") == []


def test_a_full_disk_leaves_no_owner_file(disk):
    folder = disk("size=8k")
    (folder / "filler").write_bytes(b"x" * 8192)
    with pytest.raises(OSError, match="No space left"), owned(folder):
        pass
    assert [path.name for path in folder.iterdir()] == ["filler"]


# ---- the commands --------------------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path) -> Path:
    for repo in "abc":
        (tmp_path / "src" / repo / ".git").mkdir(parents=True)
        (tmp_path / "src" / repo / "m.py").write_text(f"{repo} = 1\n" * 20)
    return tmp_path / "src"


COMMANDS = {
    "corpus": lambda p: data_prep(
        ["--sources", f"type=folder,path={p['src']}", "--output_dir", p["out"]]
    ),
    "tokenize": lambda p: data_prep(
        ["tokenize", "--corpus", p["corpus"], "--tokenizer", p["tok"], "--output_dir", p["out"]]
    ),
    "tokenizer": lambda p: tokenizer_main(
        ["--corpus", p["corpus"], "--output_dir", p["out"], "--vocab_size", "400"]
    ),
    "measure": lambda p: tokenizer_main(["measure", p["out"], "--corpus", p["corpus"]]),
    "evaluation": lambda p: evaluation(
        [p["model"], "--corpus", p["corpus"], "--output_dir", p["out"]]
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_leaves_a_folder_alone_in_which_another_is_at_work(
    command, sources, corpus, tokenizer, tmp_path
):
    from evaluation_fixtures import write_run

    places = {"src": sources, "corpus": corpus, "tok": tokenizer, "out": tmp_path / "out"}
    if command == "evaluation":
        places["model"] = write_run(tmp_path / "run", tokenizer)
    if command == "measure":
        shutil.copytree(tokenizer, places["out"])
    words = {name: str(path) for name, path in places.items()}
    with holder(tmp_path / "out"):
        before = {path: path.stat().st_size for path in contents(tmp_path / "out")}
        with pytest.raises(Refusal, match=r"out is in use by .* \(pid \d+ on host"):
            COMMANDS[command](words)
        assert {path: path.stat().st_size for path in contents(tmp_path / "out")} == before


# ---- training ------------------------------------------------------------------------------------


def test_a_second_training_in_a_folder_is_refused_and_the_first_goes_on_undisturbed(tiny):
    """Symptom: 2,695 loss lines for 1,499 steps, and status "failed" of a run that ended well."""
    import hugcoder.pretraining.trainer  # noqa: F401  seconds, in which the first would go on alone
    import train

    run = tiny.folder / "run"
    words = tiny.argv("run", max_steps=100_000, save_strategy="steps", save_steps=50)
    (first,) = tiny.ranks.start(words, world=1)
    try:
        while not (run / "metrics.jsonl").is_file():
            time.sleep(0.02)
        with pytest.raises(Refusal, match=rf"run is in use by .* \(pid {first} on host .*, since "):
            train.main(words)
        assert status_of(run)["status"] == "running"
        seen = len(metrics_of(run))
        while len(metrics_of(run)) < seen + 3:
            time.sleep(0.02)
    finally:
        (run / "STOP").touch()
        ended = tiny.ranks.wait()
    assert ended.codes == [EXIT_STOPPED], ended.output[-4000:]
    assert status_of(run)["status"] == "stopped"
    steps = [line["step"] for line in metrics_of(run) if "train/loss" in line]
    assert steps == list(range(1, status_of(run)["step"] + 1))
    assert not (run / OWNER).exists()
    assert manifest.damage(run / f"checkpoint-{steps[-1]}") == ""


def test_all_ranks_are_refused_together_and_write_nothing(tiny):
    run = tiny.folder / "run"
    with holder(run) as process:
        ended = tiny.run("run", "ddp.yaml", code=EXIT_REFUSED)
        assert [path.name for path in run.iterdir()] == [OWNER]
    for rank in range(2):
        assert f"is in use by -c (pid {process.pid} on host" in ended.of_rank(rank)
        assert "Traceback" not in ended.of_rank(rank)


def test_a_killed_training_is_gone_on_with_at_once(tiny):
    run = tiny.folder / "run"
    words = tiny.argv("run", max_steps=60, save_strategy="steps", save_steps=5)
    (pid,) = tiny.ranks.start(words, world=1)
    while not (run / "checkpoint-5" / "manifest.json").is_file():
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    assert tiny.ranks.wait().codes == [-signal.SIGKILL]
    assert (run / OWNER).is_file()
    ended = tiny.ranks.run(words, world=1)
    assert ended.codes == [0], ended.output[-4000:]
    assert f"is taken over from rank_server.py (pid {pid}" in ended.output
    assert list(losses(run)) == list(range(1, 61))
