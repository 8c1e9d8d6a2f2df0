"""Sets up the learning rate's schedule, and checks that it gives each step a rate.

Also turns other settings that are shares of the run into steps.
"""

import math
import re
from typing import TYPE_CHECKING, Any

import torch
from transformers.trainer_utils import SchedulerType

from hugcoder.refusal import Refusal

if TYPE_CHECKING:
    from transformers import TrainingArguments

SCHEDULES_OF_A_SCORE = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
SIMPLE = (
    SchedulerType.WARMUP_STABLE_DECAY,
    SchedulerType.CONSTANT,
    SchedulerType.CONSTANT_WITH_WARMUP,
)  # take nothing that set_schedule_arguments does not give
PROBED_STEPS = 16  # spread over the run
UNKNOWN_LENGTH = 10_000  # assumed steps of a run while only its epochs are known


def set_schedule_arguments(arguments: "TrainingArguments") -> None:
    """Turn the two ratios into the arguments of transformers' schedule; needs max_steps.

    Values in lr_scheduler_kwargs stay as they are.
    """
    given, steps = arguments.lr_scheduler_kwargs or {}, arguments.max_steps
    if arguments.lr_scheduler_type == SchedulerType.WARMUP_STABLE_DECAY:
        decay_steps = min(
            round(arguments.decay_ratio * steps), steps - arguments.get_warmup_steps(steps)
        )
        arguments.lr_scheduler_kwargs = {
            "num_decay_steps": decay_steps,
            "decay_type": "linear",
            "min_lr_ratio": arguments.min_lr_ratio,
        } | given
    elif arguments.lr_scheduler_type == SchedulerType.COSINE and arguments.min_lr_ratio:
        arguments.lr_scheduler_type = SchedulerType.COSINE_WITH_MIN_LR
        arguments.lr_scheduler_kwargs = {"min_lr_rate": arguments.min_lr_ratio} | given


def turn_shares_into_steps(arguments: "TrainingArguments") -> None:
    """Turn shares of the run into steps, as transformers does; needs max_steps.

    transformers does so only in its own state, which then differs from the arguments, and warns of
    that whenever a run resumes.
    """
    for name in ("logging_steps", "eval_steps", "save_steps"):
        value = getattr(arguments, name)
        if value is not None and 0 < value < 1:
            setattr(arguments, name, math.ceil(arguments.max_steps * value))


def check_schedule(arguments: "TrainingArguments") -> None:
    """Refuse a schedule that is longer than the run, or has no valid rate at some step."""
    if arguments.lr_scheduler_type in SCHEDULES_OF_A_SCORE:
        raise Refusal(
            f"lr_scheduler_type {SchedulerType(arguments.lr_scheduler_type).value} follows a "
            "score, so the learning rate of a step is not known before; give "
            "warmup_stable_decay, cosine or another that follows the step."
        )
    if arguments.warmup_steps >= 1 and arguments.warmup_steps != int(arguments.warmup_steps):
        raise Refusal(
            f"warmup_steps {arguments.warmup_steps} is neither a share nor a number of steps; give "
            "a whole number, or a share below 1."
        )
    _check_length(arguments)
    if arguments.lr_scheduler_kwargs or arguments.lr_scheduler_type not in SIMPLE:
        _probe(arguments)


def _check_length(arguments: "TrainingArguments") -> None:
    """Refuse more warm-up and decay than the run has steps."""
    steps, warmup = arguments.max_steps, arguments.warmup_steps
    if warmup >= 1 and steps < 0:
        return  # this is checked again when the epochs are counted
    share = warmup / steps if warmup >= 1 else warmup
    if share > 1:
        raise Refusal(
            f"warmup_steps {warmup:g} is more than the run's {steps} steps (max_steps); give at "
            f"most {steps}, or a share below 1."
        )
    if arguments.lr_scheduler_type != SchedulerType.WARMUP_STABLE_DECAY:
        return
    given = arguments.lr_scheduler_kwargs or {}
    if "num_decay_steps" not in given and arguments.decay_ratio + share > 1 + 1e-9:
        raise Refusal(
            f"decay_ratio {arguments.decay_ratio:g} and warmup_steps {warmup:g} are more than the "
            f"whole run ({arguments.decay_ratio:g} + {share:g} of it); give shares that sum to at "
            "most 1."
        )


def _probe(arguments: "TrainingArguments") -> None:
    """Build the schedule as the Trainer will and ask it for its rate over the run."""
    from transformers.optimization import get_scheduler

    kwargs, is_known = arguments.lr_scheduler_kwargs or {}, arguments.max_steps > 0
    steps = arguments.max_steps if is_known else UNKNOWN_LENGTH
    kind = SchedulerType(arguments.lr_scheduler_type)
    what = f"lr_scheduler_type {kind.value} with lr_scheduler_kwargs {kwargs or 'not given'}"
    warmup = arguments.get_warmup_steps(steps)
    if kind == SchedulerType.WARMUP_STABLE_DECAY:
        kwargs = {"num_decay_steps": 0} | kwargs  # as set_schedule_arguments will
        needed = warmup + _steps_in(kwargs, what)
        if is_known and needed > steps:
            raise Refusal(
                f"{what} is longer than the run: it takes {needed} steps of {steps}; give fewer."
            )
        steps = max(steps, needed)
    elif kind in (SchedulerType.CONSTANT, SchedulerType.CONSTANT_WITH_WARMUP):
        raise Refusal(
            f"{what} has no effect: it takes no arguments; leave lr_scheduler_kwargs out."
        )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=arguments.learning_rate)
    if not arguments.has_one_learning_rate:
        optimizer.defaults.clear()  # of two optimizers, see MuonWithAdamW
    try:
        schedule = get_scheduler(kind, optimizer, warmup, steps, kwargs)
        points = [steps * point // PROBED_STEPS for point in range(PROBED_STEPS + 1)]
        factors = [schedule.lr_lambdas[0](point) for point in points]
        is_good = all(math.isfinite(factor) and factor >= 0 for factor in factors)
    except KeyError:
        raise Refusal(
            f"{what} sets a learning rate, and use_muon has two; give shares of the peak "
            "(min_lr_rate, or --min_lr_ratio)."
        ) from None
    except (TypeError, ValueError, ArithmeticError) as error:
        reason = re.sub(r"^get_\w+\(\)", "the schedule", " ".join(str(error).split()))
        raise Refusal(f"{what} is not possible: {reason}.") from None
    if not is_good:
        raise Refusal(f"{what} gives rates that are negative or not finite; give other values.")


def _steps_in(kwargs: dict[str, Any], what: str) -> int:
    """Add up the steps in the arguments of warmup_stable_decay."""
    names = ("num_decay_steps", "num_stable_steps")
    lengths = [kwargs[name] for name in names if name in kwargs]
    if any(not isinstance(length, int) or length < 0 for length in lengths):
        raise Refusal(
            f"{what} is not possible: {' and '.join(names)} must be whole numbers, 0 or more."
        )
    return sum(lengths)
