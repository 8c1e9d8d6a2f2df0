"""Fits a run into minutes: as many steps as the speed of a short run before it allows.

The short run is of the same recipe on the same machine; its folder says how long a start, a step
and a scoring took. So the number of steps is known before the run begins, and the same command
goes on with the same schedule after an interruption.
"""

import json
import logging
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hugcoder.files import keys_demanded, read_object
from hugcoder.ranges import Range, check_ranges
from hugcoder.refusal import Refusal

if TYPE_CHECKING:
    from transformers import TrainingArguments

logger = logging.getLogger(__name__)

LEFT_FOR_OTHERS = 0.03  # of the minutes: writing the model, and a machine that is now and then busy
FEWEST_STEPS = 10
MINUTES = Range(0, 10**7)


@dataclass(frozen=True)
class Speed:
    """Seconds, as a run in `folder` took them."""

    folder: Path
    start_up: float  # until the first step, compiling included
    step: float
    scoring: float

    def __str__(self) -> str:
        return (
            f"in {self.folder} the start took {self.start_up:.0f} s, a step {self.step:.3f} s and "
            f"a scoring {self.scoring:.0f} s"
        )


def check_length(arguments: "TrainingArguments") -> None:
    """Check that minutes come with a speed, and alone. Raises: Refusal."""
    check_ranges(arguments, {"max_minutes": MINUTES})
    minutes, speed_of = arguments.max_minutes, arguments.speed_of
    for name, nothing in (("max_steps", -1), ("num_train_epochs", None)):
        if minutes and getattr(arguments, name) != nothing:
            raise Refusal(
                f"max_minutes {minutes:g} and {name} {getattr(arguments, name):g} both say how "
                "long the run is; leave one out."
            )
    if minutes and not speed_of:
        raise Refusal(
            f"max_minutes {minutes:g} needs speed_of: the steps follow from the speed of a short "
            "run; give --speed_of FOLDER."
        )
    if speed_of and not minutes:
        raise Refusal(f"speed_of {speed_of} has no effect without max_minutes; leave it out.")


def steps_of(arguments: "TrainingArguments") -> int:
    """Return the steps that fit into the minutes asked for.

    Raises: Refusal when the speed is not known or of other settings, or the minutes are too few.
    """
    speed = read_speed(Path(arguments.speed_of))
    _check_same(speed.folder, {"global_batch_size": arguments.rows_per_step})
    eval_steps = arguments.eval_steps if arguments.eval_strategy != "no" else None
    steps = steps_within(arguments.max_minutes, speed, eval_steps)
    if arguments.should_log:
        logger.info("%s steps fit into %g minutes: %s", f"{steps:,}", arguments.max_minutes, speed)
    return steps


def read_speed(folder: Path) -> Speed:
    """Read how fast a run was. Raises: Refusal when it logged too little to tell."""
    record, metrics = folder / "run.json", folder / "metrics.jsonl"
    if not record.is_file() or not metrics.is_file():
        raise Refusal(
            f"speed_of {folder} is not the folder of a run (it has no run.json or metrics.jsonl); "
            "train a few steps there first, as in --max_steps 40 --logging_steps 10."
        )
    with keys_demanded(folder, record.name):
        began = datetime.strptime(read_object(record)["started"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
    with keys_demanded(folder, metrics.name):
        lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
        steps = [(line["step"], line["time"]) for line in lines if "train/loss" in line]
        scored = [line["time"] for line in lines if "eval/loss" in line]
    if len(steps) < 2:
        raise Refusal(
            f"speed_of {folder} has {len(steps)} log lines of its steps, too few to tell its "
            "speed; train more steps there, as in --max_steps 40 --logging_steps 10."
        )
    (first, time_of_first), (last, time_of_last) = steps[0], steps[-1]
    step = (time_of_last - time_of_first) / (last - first)
    start_up = max(time_of_first - began - first * step, 0.0)
    scoring = max(scored[-1] - time_of_last, 0.0) if scored else 0.0
    return Speed(folder, start_up, step, scoring)


def steps_within(minutes: float, speed: Speed, eval_steps: float | None) -> int:
    """Return the steps that fit into `minutes`.

    Args: eval_steps: steps between scorings, or the share of the run; None = no scoring.
    Raises: Refusal when the start takes so long that hardly a step fits.
    """
    seconds = 60 * minutes * (1 - LEFT_FOR_OTHERS) - speed.start_up
    a_step = speed.step
    if eval_steps and eval_steps < 1:
        seconds -= math.ceil(1 / eval_steps) * speed.scoring
    elif eval_steps:
        seconds -= speed.scoring  # once more at the end
        a_step += speed.scoring / eval_steps
    steps = int(seconds / a_step)
    if steps < FEWEST_STEPS:
        needed = (60 * minutes - seconds + FEWEST_STEPS * a_step) / 60
        raise Refusal(
            f"max_minutes {minutes:g} is too short: as {speed.folder} shows, the start and the "
            f"scoring take {(60 * minutes - seconds) / 60:.1f} minutes; give at least "
            f"{math.ceil(10 * needed) / 10:g}."
        )
    return steps


def _check_same(speed_of: Path, facts: dict[str, Any]) -> None:
    """Compare facts with those of the run whose speed is taken. Raises: Refusal if one differs."""
    record = read_object(speed_of / "run.json")
    known = record.get("identity", {}) | record
    for name, value in facts.items():
        if name in known and known[name] != value:
            raise Refusal(
                f"speed_of {speed_of} was measured with {name} {known[name]}, and this run has "
                f"{value}; train a few steps there with this run's settings first."
            )
