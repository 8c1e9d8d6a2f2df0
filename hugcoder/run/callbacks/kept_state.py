"""Saves in a checkpoint what parts of the trainer must remember."""

from typing import Any, Protocol

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState


class Rememberer(Protocol):
    """Has a state of JSON values, the same on every rank."""

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, Any]) -> None: ...


class KeptState(TrainerCallback, ExportableState):
    """Saves the state of each part in trainer_state.json and restores it before the first step.

    The Trainer's own restore_callback_states_from_checkpoint is not used: it makes new callbacks,
    and makes a run that was stopped stop again.
    """

    def __init__(self, parts: dict[str, Rememberer]):
        self.parts = parts

    def state(self) -> dict[str, Any]:
        return {name: part.state() for name, part in self.parts.items()}

    def on_train_begin(self, args, state, control, **kwargs):
        # transformers takes the steps between log lines, scores and checkpoints from the checkpoint
        state.compute_steps(args, state.max_steps)
        kept = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        for name, part in self.parts.items():
            part.load_state(kept[name])
