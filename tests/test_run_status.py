"""status.json says how a run ended, for whoever would start it again."""

import errno
import os

import pytest
from run_in_ranks import status_of

from hugcoder.refusal import EXIT_STOPPED, Refusal
from hugcoder.run.run_status import kept_status, read_step, write_status


def test_a_run_is_running_until_it_is_finished(tmp_path):
    with kept_status(tmp_path, is_writer=True) as status:
        assert status_of(tmp_path)["status"] == "running"
        assert status_of(tmp_path)["exit_code"] is None
        status.step = 7
    assert (status_of(tmp_path)["status"], status_of(tmp_path)["step"]) == ("finished", 7)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Refusal("no"), "refused", 2),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "refused", 2),
        (RuntimeError("gloo: connection reset"), "failed", 1),
        (KeyboardInterrupt(), "failed", 130),
        (SystemExit(EXIT_STOPPED), "stopped", 75),
    ],
)
def test_what_ends_a_run_is_written_and_goes_on_its_way(tmp_path, error, status, code):
    with pytest.raises(type(error)), kept_status(tmp_path, is_writer=True):
        raise error
    assert (status_of(tmp_path)["status"], status_of(tmp_path)["exit_code"]) == (status, code)


def test_only_rank_0_writes(tmp_path):
    with kept_status(tmp_path, is_writer=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_is_refused_keeps_the_step_of_the_run(tmp_path):
    write_status(tmp_path, "stopped", 40, EXIT_STOPPED)
    with pytest.raises(Refusal), kept_status(tmp_path, is_writer=True):
        raise Refusal("no")
    assert read_step(tmp_path) == 40


def test_a_refused_command_and_a_finished_one_are_told_apart(tiny):
    tiny.run("run", token_store="nowhere", code=2)
    run = tiny.folder / "run"
    assert status_of(run)["status"] == "refused"
    for _ in range(2):
        tiny.run("run", max_steps=2)
        assert (status_of(run)["status"], status_of(run)["step"]) == ("finished", 2)
