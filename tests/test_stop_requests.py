"""Requests to stop and to save: whoever is asked, all ranks do the same, and nothing is lost."""

import signal

import pytest
from run_in_ranks import TinyRun, are_equal

from hugcoder.callbacks.stop_requests import listening


@pytest.fixture
def tiny(ranks, store, model_config, tmp_path):
    return TinyRun(ranks, store, model_config, tmp_path)


def checkpoints(tiny: TinyRun, name: str) -> list[str]:
    return sorted(path.parent.name for path in (tiny.folder / name).glob("*/manifest.json"))


@pytest.mark.parametrize(
    "config",
    ["ddp.yaml", "fsdp.yaml", pytest.param("deepspeed.yaml", marks=pytest.mark.slow)],
)
def test_a_signal_to_one_rank_stops_all_and_the_run_goes_on_as_unbroken(tiny, config):
    given = {"place": "step", "step": 3, "rank": 1, "signal": "SIGTERM"}
    stopped = tiny.run("run", config, 2, program="with_a_signal", given=given)
    assert stopped.codes == [75, 75], stopped.output
    assert "Traceback" not in stopped.output
    assert "stopped by SIGTERM; the same command goes on" in stopped.of_rank(0)
    assert checkpoints(tiny, "run") == ["checkpoint-4"]
    status = tiny.status("run")
    assert (status["status"], status["step"], status["exit_code"]) == ("stopped", 4, 75)

    gone_on = tiny.run("run", config, 2)
    assert gone_on.codes == [0, 0], gone_on.output
    tiny.run("unbroken", config, 2)
    assert tiny.losses("run") == tiny.losses("unbroken")
    assert are_equal(tiny.weights("run"), tiny.weights("unbroken"))
    assert tiny.status("run")["status"] == "finished"


@pytest.mark.parametrize(
    ("place", "name", "step"), [("build", "SIGINT", 2), ("evaluate", "SIGUSR1", 4)]
)
def test_a_signal_at_any_time_is_remembered_until_a_step_has_ended(tiny, place, name, step):
    given = {"place": place, "step": 3, "rank": 1, "signal": name}
    if place == "build":
        del given["step"]
    stopped = tiny.run(
        "run",
        "ddp.yaml",
        2,
        program="with_a_signal",
        given=given,
        eval_strategy="steps",
        eval_steps=2,
    )
    assert stopped.codes == [75, 75], stopped.output
    assert "Traceback" not in stopped.output
    assert checkpoints(tiny, "run") == [f"checkpoint-{step}"]
    assert f"stopped by {name}" in stopped.of_rank(0)


def test_a_signal_to_the_data_workers_too_stops_without_a_traceback(tiny):
    given = {"place": "save", "step": 2, "rank": 0, "signal": "SIGINT"}
    saves = {"save_strategy": "steps", "save_steps": 2, "dataloader_num_workers": 2}
    stopped = tiny.run("run", program="with_a_signal", given=given, **saves)
    assert stopped.codes == [75], stopped.output
    assert "Traceback" not in stopped.output
    assert checkpoints(tiny, "run") == ["checkpoint-2", "checkpoint-3"]


def test_the_same_signal_twice_ends_at_once(tiny):
    given = {"place": "step", "step": 3, "rank": 0, "signal": "SIGTERM", "times": 2}
    ended = tiny.run("run", program="with_a_signal", given=given)
    assert ended.codes == [-signal.SIGTERM]
    assert checkpoints(tiny, "run") == []
    assert tiny.status("run")["status"] == "running"


def test_a_request_in_the_last_step_lets_the_run_finish(tiny):
    given = {"place": "step", "step": 6, "rank": 1, "signal": "SIGTERM"}
    ended = tiny.run("run", "ddp.yaml", 2, program="with_a_signal", given=given)
    assert ended.codes == [0, 0], ended.output
    assert tiny.status("run") | {"time": ""} == {
        "status": "finished",
        "step": 6,
        "exit_code": 0,
        "time": "",
    }


def test_a_file_stop_ends_the_run_until_it_is_removed(tiny):
    given = {"name": "STOP", "step": 3}
    stopped = tiny.run("run", "ddp.yaml", 2, program="with_files_put", given=given)
    assert stopped.codes == [75, 75], stopped.output
    assert checkpoints(tiny, "run") == ["checkpoint-4"]
    file = tiny.folder / "run" / "STOP"
    refused = tiny.run("run", "ddp.yaml", 2)
    assert refused.codes == [2, 2]
    assert f"{file} is there, so this run is not started; remove the file" in refused.output
    assert tiny.status("run")["status"] == "refused"
    assert tiny.status("run")["step"] == 4
    file.unlink()
    assert tiny.run("run", "ddp.yaml", 2).codes == [0, 0]


def test_a_file_save_takes_one_checkpoint_and_goes_away(tiny):
    given = {"name": "SAVE", "step": 2}
    ended = tiny.run("run", "fsdp.yaml", 2, program="with_files_put", given=given)
    assert ended.codes == [0, 0], ended.output
    assert checkpoints(tiny, "run") == ["checkpoint-3", "model"]
    assert not (tiny.folder / "run" / "SAVE").exists()


def test_handlers_are_put_back_and_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        terminate = signal.getsignal(signal.SIGTERM)
        with listening() as signals:
            assert signal.getsignal(signal.SIGTERM) == signals._remember
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == terminate
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)
