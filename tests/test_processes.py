"""What the tests rely on: programs they start hear signals, and leave nothing behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest

SHOW = "import signal; print([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGHUP)])"
# a shell's background job in a group of its own, and one in a session of its own
STUBBORN = "set -m; trap '' TERM INT; sleep 1000 & setsid sleep 1000 & echo $! > '{}'; wait"


@pytest.fixture
def deaf():
    """As under `nohup ... &`."""
    numbers = (signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_a_program_hears_the_signals_that_the_tests_do_not(deaf):
    shown = processes.run([sys.executable, "-c", SHOW], timeout=60).stdout
    assert "default_int_handler" in shown
    assert "SIG_DFL" in shown
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_ranks_hear_signals_too(ranks):
    world = ranks.run([], main="rank_programs_engines:show_signals")
    assert world.codes == [0, 0], world.output
    assert world.output.count("default_int_handler") == world.output.count("SIG_DFL") == 2


def test_a_program_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path):
    """Symptom: the timeout ended the script alone, and a shell loop that it had started ran on."""
    words = ["bash", "-c", STUBBORN.format(tmp_path / "pid")]
    with pytest.raises(subprocess.TimeoutExpired):
        processes.run(words, timeout=3)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_tests_that_are_ended_end_what_they_started(tmp_path, start):
    mark = tmp_path / "mark"
    (tmp_path / "conftest.py").symlink_to(Path(__file__).with_name("conftest.py"))
    (tmp_path / "test_waits.py").write_text(
        "def test_it_waits(start):\n"
        f"    process = start(['bash', '-c', {STUBBORN.format(mark)!r}])\n"
        "    process.wait()\n"
    )
    folders = f"{Path(__file__).parent}:{Path(__file__).parents[1]}"
    words = ["env", f"PYTHONPATH={folders}", sys.executable, "-m", "pytest", str(tmp_path)]
    tests = start(words, cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (mark.exists() and mark.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(processes.marked(tests.mark)) >= 3
    tests.terminate()
    tests.wait(timeout=60)
    assert not processes.marked(tests.mark)
