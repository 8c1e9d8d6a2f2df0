"""Hyperparameters of the optimizer come from the arguments of the start, also when it resumes.

torch and DeepSpeed put the checkpoint's learning rate, weight decay and betas back with the
optimizer's state, so that a changed flag would do nothing and say nothing. Here they are remembered
before the checkpoint is loaded and put back behind it; with unchanged flags nothing changes. Works
for schedules that are functions of the step; `PretrainArguments` refuses the others.
"""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Settings = list[dict[str, Any]]  # of each parameter group, without its parameters


def settings_of(optimizer: Optimizer) -> Settings:
    """What the arguments made of each parameter group."""
    return [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]


def restore_settings(settings: Settings, optimizer: Optimizer, scheduler: LambdaLR) -> None:
    """Give loaded parameter groups the settings of this start, at the schedule's present step."""
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    scheduler.base_lrs = [own["initial_lr"] for own in settings]
    factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
    rates = [rate * factor for rate, factor in zip(scheduler.base_lrs, factors, strict=True)]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates
