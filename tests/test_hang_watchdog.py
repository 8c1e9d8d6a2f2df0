"""A run that hangs ends, and shows where each of its ranks stood."""

import json

import pytest
from run_in_ranks import status_of
from test_ownership import holder
from transformers import TrainerState

from hugcoder.engines import collectives
from hugcoder.ownership import OWNER
from hugcoder.refusal import Refusal
from hugcoder.run.callbacks.hang_watchdog import FIRST_STEP_SECONDS, LONG_SECONDS, HangWatchdog

PATIENT = {"hang_timeout_minutes": 5}  # until step 1 has ended


def test_a_rank_asleep_in_its_data_ends_the_run_with_the_stacks_of_all(tiny):
    given = {"rank": 1, "row": 8, "seconds": 6}  # of step 3, fetched ahead during step 2
    hung = tiny.run(
        "run", "ddp.yaml", program="with_a_rank_asleep", given=given, code=76, **PATIENT
    )
    run = tiny.folder / "run"
    stacks = [(run / "stacks" / f"rank-{rank}.txt").read_text() for rank in (0, 1)]
    sentences = ("no progress for 0.1 minutes after step 1", "another rank hangs, and")
    assert all(any(sentence in text for sentence in sentences) for text in stacks)
    assert "in slow_item" in stacks[1]
    assert "in slow_item" not in stacks[0]
    assert "in training_step" in stacks[0] or "in _get_num_items_in_batch" in stacks[0]
    assert "in slow_item" in hung.of_rank(1)
    status = status_of(run)
    assert (status["status"], status["step"], status["exit_code"]) == ("hung", 1, 76)


@pytest.mark.parametrize(
    ("place", "frame", "words"),
    [
        ("join", "in join", "while joining the other processes"),
        ("agree", "in refuse_while_stopped", "while agreeing to start with the other processes"),
        pytest.param(
            *("leave", "in leave_together", "while leaving together with the other processes"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_rank_that_never_arrives_ends_the_run_with_the_stacks_of_who_waits(
    tiny, place, frame, words
):
    """Symptom: armed once training began, a network that hung before it left no stacks."""
    given = {"rank": 1, "place": place}
    argv = tiny.argv("run", max_steps=2, hang_timeout_minutes=0.1)
    program = "rank_programs_accidents:without_a_rank"
    settings = {"config": "ddp.yaml", "main": program, "grace": 1.0}
    world = tiny.ranks.run([json.dumps(given), *argv], **settings)
    run = tiny.folder / "run"
    assert world.codes[0] == 76, world.output
    stacks = (run / "stacks" / "rank-0.txt").read_text()
    assert f"no progress for 0.1 minutes {words}" in stacks
    assert frame in stacks
    assert status_of(run)["status"] == "hung"


def test_a_start_that_hangs_leaves_a_folder_alone_that_another_run_holds(tiny):
    """Symptom: its stacks and its status ended the run that was at work there."""
    run = tiny.folder / "run"
    argv = [json.dumps({"rank": 1, "place": "join"}), *tiny.argv("run", hang_timeout_minutes=0.1)]
    program = "rank_programs_accidents:without_a_rank"
    with holder(run):
        world = tiny.ranks.run(argv, config="ddp.yaml", main=program, grace=1.0)
        assert [path.name for path in run.iterdir()] == [OWNER]
    assert world.codes[0] == 76, world.output
    assert "the stacks of all threads are in the log" in world.of_rank(0)
    assert "in join" in world.of_rank(0)


def test_stacks_that_are_taken_away_are_no_sign_of_a_hang(tmp_path):
    path = tmp_path / "stacks" / "rank-1.txt"
    path.parent.mkdir()
    path.write_text("of an earlier start\n")
    watchdog = HangWatchdog(tmp_path, 60.0, 0)
    with watchdog.armed("while testing"):
        assert not watchdog._has_another_hung()
        path.unlink()
        assert not watchdog._has_another_hung()
        path.write_text("of an earlier start\nand of this one\n")
        assert watchdog._has_another_hung()


def test_the_start_has_a_longer_allowance_than_a_step(tmp_path):
    watchdog = HangWatchdog(tmp_path, 60.0, 0)
    with watchdog.armed("while joining the other processes"):
        assert watchdog._limit == FIRST_STEP_SECONDS


def test_work_of_unknown_length_has_a_longer_allowance(tmp_path):
    watchdog = HangWatchdog(tmp_path, 60.0, 0)
    assert watchdog._limit == 60
    watchdog.at("while reading the checkpoint", LONG_SECONDS)
    assert watchdog._limit == collectives.PATIENCE_SECONDS
    watchdog.at("while preparing the model", FIRST_STEP_SECONDS)
    assert watchdog._limit == 20 * 60
    watchdog.feed(TrainerState())
    assert watchdog._limit == 60


@pytest.mark.slow
def test_a_hang_that_holds_the_interpreter_ends_too(tiny):
    given = {"rank": 0, "row": 4, "seconds": 6, "holds_lock": True}
    tiny.run("run", program="with_a_rank_asleep", given=given, code=1, **PATIENT)
    assert "in slow_item" in (tiny.folder / "run" / "stacks" / "rank-0.txt").read_text()


def test_a_run_that_ends_well_or_in_an_error_leaves_no_stacks_and_no_watch(tiny):
    tiny.run("well", max_steps=2, **PATIENT)
    assert not (tiny.folder / "well" / "stacks").exists()
    given = {"step": 2, "rank": 0, "factor": "nan"}
    settings = {"program": "with_bad_gradients", "given": given, "code": 2}
    ended = tiny.run("refused", max_skipped_steps=0, max_steps=3, **settings)
    assert "1 of the last 2 steps were skipped, more than max_skipped_steps 0" in ended.output
    assert not (tiny.folder / "refused" / "stacks").exists()


def test_a_timeout_that_collectives_would_forestall_is_refused(tmp_path):
    from hugcoder.pretraining.arguments import PretrainArguments

    with pytest.raises(Refusal, match="hang_timeout_minutes 30 is not below ddp_timeout 1800 s"):
        PretrainArguments(output_dir=str(tmp_path), hang_timeout_minutes=30)
