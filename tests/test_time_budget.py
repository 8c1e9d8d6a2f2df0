"""Minutes in place of steps: the steps follow from the speed of a short run."""

import json

import pytest

from hugcoder.pretraining.arguments import PretrainArguments
from hugcoder.refusal import Refusal
from hugcoder.run.time_budget import Speed, read_speed, steps_within

BEGAN = 1_700_000_000


def write_run(folder, first=(10, 60.0), last=(40, 75.0), scored=77.0, **record):
    """A run that started at BEGAN and logged two steps; times in seconds since."""
    folder.mkdir()
    known = {"started": "2023-11-14T22:13:20+0000", "identity": {"global_batch_size": 8}}
    (folder / "run.json").write_text(json.dumps(known | record))
    lines = [{"step": step, "time": BEGAN + t, "train/loss": 1.0} for step, t in (first, last)]
    lines.append({"step": last[0], "time": BEGAN + scored, "eval/loss": 1.0})
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def arguments(tmp_path, **changes):
    settings = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "global_batch_size": 8}
    return PretrainArguments(**(settings | changes))


def test_the_speed_is_read_from_the_log(tmp_path):
    speed = read_speed(write_run(tmp_path / "short"))
    assert (speed.start_up, speed.step, speed.scoring) == pytest.approx((55.0, 0.5, 2.0))


def test_start_steps_and_scorings_fit_into_the_minutes():
    speed = Speed("short", start_up=60, step=0.5, scoring=4)
    for minutes in (3, 8, 30):
        for eval_steps in (0.34, 100, None):
            steps = steps_within(minutes, speed, eval_steps)
            scorings = 0 if eval_steps is None else 3 if eval_steps == 0.34 else steps // 100 + 1
            taken = 60 + steps * 0.5 + scorings * 4
            assert 0.93 * 60 * minutes <= taken <= 0.9701 * 60 * minutes


def test_a_run_takes_its_length_from_the_minutes(tmp_path):
    speed_of = str(write_run(tmp_path / "short"))
    run = arguments(tmp_path, max_minutes=8, speed_of=speed_of, eval_steps=0.34)
    run.join()
    run.fix_length(rows_per_epoch=100)
    assert run.max_steps == steps_within(8, read_speed(tmp_path / "short"), 0.34)
    assert run.eval_steps == -(-run.max_steps * 34 // 100)
    assert run.lr_scheduler_kwargs["num_decay_steps"] == round(0.2 * run.max_steps)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_minutes": 8}, "max_minutes 8 needs speed_of"),
        ({"speed_of": "x"}, "speed_of x has no effect without max_minutes"),
        ({"max_minutes": 8, "speed_of": "x", "max_steps": 9}, "max_minutes 8 and max_steps 9 both"),
        (
            {"max_minutes": 8, "speed_of": "x", "num_train_epochs": 2},
            "max_minutes 8 and num_train_epochs 2 both",
        ),
        ({"max_minutes": -1, "speed_of": "x"}, "max_minutes -1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path, settings, words):
    with pytest.raises(Refusal, match=words):
        arguments(tmp_path, **settings)


def test_too_few_minutes_are_refused_with_how_many_it_takes(tmp_path):
    speed = read_speed(write_run(tmp_path / "short"))
    with pytest.raises(Refusal, match=r"max_minutes 0.5 is too short.* give at least (1\.\d)") as e:
        steps_within(0.5, speed, 0.34)
    assert steps_within(float(str(e.value).split()[-1].rstrip(".")), speed, 0.34) >= 10


def test_a_folder_that_tells_no_speed_is_refused(tmp_path):
    with pytest.raises(Refusal, match="is not the folder of a run"):
        read_speed(tmp_path)
    folder = write_run(tmp_path / "short")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text(lines[0] + "\n")
    with pytest.raises(Refusal, match="has 1 log lines of its steps"):
        read_speed(folder)
    (folder / "metrics.jsonl").write_text("{torn\n")
    with pytest.raises(Refusal, match=r"metrics.jsonl is damaged"):
        read_speed(folder)


def test_the_speed_of_another_batch_is_refused(tmp_path):
    speed_of = str(write_run(tmp_path / "short", identity={"global_batch_size": 16}))
    run = arguments(tmp_path, max_minutes=8, speed_of=speed_of)
    run.join()
    with pytest.raises(Refusal, match="measured with global_batch_size 16, and this run has 8"):
        run.fix_length(rows_per_epoch=100)
