"""Takes the optimizer's hyperparameters from the arguments of this start, also when it resumes.

torch and DeepSpeed restore the checkpoint's learning rate, weight decay and betas with the
optimizer's state, so a changed flag would silently do nothing. Here they are saved before the
checkpoint is loaded, and put back after it. Unchanged flags change nothing. Works for schedules
that are functions of the step; `hugcoder.run.schedule` refuses the others.
"""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Settings = list[dict[str, Any]]  # one entry for each parameter group, without its parameters


def settings_of(optimizer: Optimizer) -> Settings:
    """Return the settings of each parameter group, as the arguments have set them."""
    return [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]


def restore_settings(settings: Settings, optimizer: Optimizer, scheduler: LambdaLR) -> None:
    """Give loaded parameter groups the settings of this start, at the schedule's current step."""
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    scheduler.base_lrs = [own["initial_lr"] for own in settings]
    factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
    rates = [rate * factor for rate, factor in zip(scheduler.base_lrs, factors, strict=True)]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates
