"""Hyperparameters follow the arguments of the start, not the checkpoint."""

import torch
from torch.optim.lr_scheduler import LambdaLR

from hugcoder.run.hyperparameters import restore_settings, settings_of


def make(learning_rate: float, weight_decay: float, length: int):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=learning_rate, weight_decay=weight_decay)
    return optimizer, LambdaLR(optimizer, lambda step: 1 - step / length)


def advance(optimizer, scheduler, steps: int) -> None:
    for _ in range(steps):
        optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
        optimizer.step()
        scheduler.step()


def resumed(learning_rate: float, weight_decay: float, length: int, saved):
    """A start with its own settings that loads the state of another."""
    optimizer, scheduler = make(learning_rate, weight_decay, length)
    settings = settings_of(optimizer)
    optimizer.load_state_dict(saved[0].state_dict())
    scheduler.load_state_dict(saved[1].state_dict())
    restore_settings(settings, optimizer, scheduler)
    return optimizer, scheduler


def test_with_the_same_arguments_nothing_changes():
    saved = make(0.1, 0.01, 10)
    advance(*saved, 4)
    same = resumed(0.1, 0.01, 10, saved)
    for _ in range(3):
        assert same[0].state_dict()["param_groups"] == saved[0].state_dict()["param_groups"]
        assert same[1].get_last_lr() == saved[1].get_last_lr()
        advance(*same, 1)
        advance(*saved, 1)


def test_another_learning_rate_decay_and_length_take_effect_at_once():
    saved = make(0.1, 0.01, 10)
    advance(*saved, 4)
    optimizer, scheduler = resumed(0.2, 0.5, 20, saved)
    assert optimizer.param_groups[0]["lr"] == 0.2 * (1 - 4 / 20) == scheduler.get_last_lr()[0]
    assert optimizer.param_groups[0]["weight_decay"] == 0.5
    advance(optimizer, scheduler, 1)
    assert optimizer.param_groups[0]["lr"] == 0.2 * (1 - 5 / 20)
