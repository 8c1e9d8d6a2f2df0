"""Requests to stop and to save: whoever is asked, all ranks do the same, and nothing is lost."""

import signal

import pytest
from run_in_ranks import TinyRun, assert_same_weights, losses, model_of, status_of

from hugcoder.run.callbacks.stop_requests import listening


def complete(tiny: TinyRun) -> list[str]:
    """Folders of the run "run" that a manifest completes."""
    return sorted(path.parent.name for path in (tiny.folder / "run").glob("*/manifest.json"))


def status(tiny: TinyRun) -> tuple[str, int, int]:
    status = status_of(tiny.folder / "run")
    return status["status"], status["step"], status["exit_code"]


@pytest.mark.parametrize(
    "config",
    ["ddp.yaml", "fsdp.yaml", pytest.param("deepspeed.yaml", marks=pytest.mark.slow)],
)
def test_a_signal_to_one_rank_stops_all_and_the_run_goes_on_as_unbroken(tiny, config):
    given = {"place": "step", "step": 3, "rank": 1, "signal": "SIGTERM"}
    stopped = tiny.run("run", config, program="with_a_signal", given=given, code=75)
    assert "Traceback" not in stopped.output
    assert "stopped by SIGTERM; the same command goes on" in stopped.of_rank(0)
    assert complete(tiny) == ["checkpoint-4"]
    assert status(tiny) == ("stopped", 4, 75)

    tiny.run("run", config)
    run, unbroken = tiny.folder / "run", tiny.whole(config)
    assert losses(run) == losses(unbroken)
    assert_same_weights(model_of(run), model_of(unbroken))
    assert status(tiny) == ("finished", 6, 0)


@pytest.mark.parametrize(
    ("place", "name", "step"), [("build", "SIGINT", 2), ("evaluate", "SIGUSR1", 4)]
)
def test_a_signal_at_any_time_is_remembered_until_a_step_has_ended(tiny, place, name, step):
    given = {"place": place, "step": 3, "rank": 1, "signal": name}
    if place == "build":
        del given["step"]
    scored = {"eval_strategy": "steps", "eval_steps": 2, "held_out_rows": 8}
    settings = {"program": "with_a_signal", "given": given, "code": 75}
    stopped = tiny.run("run", "ddp.yaml", **settings, **scored, per_device_eval_batch_size=2)
    assert "Traceback" not in stopped.output
    assert complete(tiny) == [f"checkpoint-{step}"]
    assert f"stopped by {name}" in stopped.of_rank(0)


def test_a_signal_to_the_data_workers_too_stops_without_a_traceback(tiny):
    given = {"place": "save", "step": 2, "rank": 0, "signal": "SIGINT"}
    saves = {"save_strategy": "steps", "save_steps": 2, "dataloader_num_workers": 2}
    stopped = tiny.run("run", program="with_a_signal", given=given, code=75, **saves)
    assert "Traceback" not in stopped.output
    assert complete(tiny) == ["checkpoint-2", "checkpoint-3"]


def test_a_signal_that_a_launcher_passes_on_at_once_counts_once(tiny):
    given = {"place": "step", "step": 3, "rank": 0, "signal": "SIGTERM", "times": 2}
    tiny.run("run", program="with_a_signal", given=given, code=75)
    assert complete(tiny) == ["checkpoint-3"]


def test_the_same_signal_again_later_ends_at_once(tiny):
    given = {"place": "step", "step": 3, "rank": 0, "signal": "SIGTERM", "times": 2}
    given["repeat_seconds"] = 0
    tiny.run("run", program="with_a_signal", given=given, code=-signal.SIGTERM)
    assert complete(tiny) == []
    assert status_of(tiny.folder / "run")["status"] == "running"


def test_a_request_in_the_last_step_lets_the_run_finish(tiny):
    given = {"place": "step", "step": 6, "rank": 1, "signal": "SIGTERM"}
    tiny.run("run", "ddp.yaml", program="with_a_signal", given=given)
    assert status(tiny) == ("finished", 6, 0)


def test_a_file_stop_ends_the_run_until_it_is_removed(tiny):
    given = {"name": "STOP", "step": 3}
    tiny.run("run", "ddp.yaml", program="with_files_put", given=given, code=75)
    assert complete(tiny) == ["checkpoint-4"]
    file = tiny.folder / "run" / "STOP"
    refused = tiny.run("run", "ddp.yaml", code=2)
    assert f"{file} is there, so this run is not started; remove the file" in refused.output
    assert status(tiny) == ("refused", 4, 2)
    file.unlink()
    tiny.run("run", "ddp.yaml")


def test_a_file_save_takes_one_checkpoint_and_goes_away(tiny):
    given = {"name": "SAVE", "step": 2}
    tiny.run("run", "fsdp.yaml", program="with_files_put", given=given)
    assert complete(tiny) == ["checkpoint-3", "model"]
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
