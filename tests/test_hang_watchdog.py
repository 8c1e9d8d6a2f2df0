"""A run that hangs ends, and shows where each of its ranks stood."""

import pytest
from run_in_ranks import status_of

from hugcoder.refusal import Refusal

PATIENT = {"hang_timeout_minutes": 5}  # until step 1 has ended


def test_a_rank_asleep_in_its_data_ends_the_run_with_the_stacks_of_all(tiny):
    given = {"rank": 1, "row": 8, "seconds": 6}  # of step 3, fetched ahead during step 2
    hung = tiny.run(
        "run", "ddp.yaml", program="with_a_rank_asleep", given=given, code=76, **PATIENT
    )
    run = tiny.folder / "run"
    stacks = [(run / "stacks" / f"rank-{rank}.txt").read_text() for rank in (0, 1)]
    assert all("nothing has moved for 0.1 minutes after step 1" in text for text in stacks)
    assert "in slow_item" in stacks[1]
    assert "in slow_item" not in stacks[0]
    assert "in training_step" in stacks[0] or "in _get_num_items_in_batch" in stacks[0]
    assert "in slow_item" in hung.of_rank(1)
    status = status_of(run)
    assert (status["status"], status["step"], status["exit_code"]) == ("hung", 1, 76)


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
    from hugcoder.arguments import PretrainArguments

    with pytest.raises(Refusal, match="hang_timeout_minutes 30 is not below ddp_timeout 1800 s"):
        PretrainArguments(output_dir=str(tmp_path), hang_timeout_minutes=30)
