"""Compares a run's identity, the facts that must stay the same, with a checkpoint's.

--allow_changes names facts that may change. Each kind of run collects its own facts, as
`hugcoder.pretraining.identity` does. Learning rate, schedule and length are not part of it: they
may change from one start to the next, and run.json records the change.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hugcoder.engines.launched import launched_processes
from hugcoder.refusal import Refusal

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """Holds facts by name, as JSON keeps them, and the names that may differ from a
    checkpoint's."""

    facts: dict[str, Any]
    allowed: tuple[str, ...] = ()

    FACTS_OF_OLD: ClassVar[dict[str, Any]] = {}  # values for old checkpoints that lack these facts

    def __post_init__(self) -> None:
        changeable = [name for name in self.facts if not self.is_of_weights(name)]
        unknown = sorted(set(self.allowed) - set(changeable))
        if unknown:
            raise Refusal(
                f"allow_changes names {', '.join(unknown)}; what may change is "
                f"{', '.join(changeable)}."
            )

    def compare(self, found: dict[str, Any], where: Path) -> None:
        """Compare with the facts `found` in a folder; log a change that is allowed.

        A fact that only one side has is not compared: another release of this program or of
        transformers has added it.
        Raises: Refusal with both values for a change that is not allowed.
        """
        found = self.FACTS_OF_OLD | found
        changed = {
            name: (found[name], value)
            for name, value in self.facts.items()
            if name in found and self.meaning(name, found[name]) != self.meaning(name, value)
        }
        for name, (then, now) in changed.items():
            if name not in self.allowed:
                raise Refusal(
                    f"{where} belongs to another run: its {name} is {then!r}, now it is {now!r}. "
                    + self._way_out(name, then)
                )
        for name, values in changed.items():
            logger.warning("allowed change: %s", named({name: values}))

    def meaning(self, name: str, value: Any) -> Any:
        """Return the meaning of a fact, however this release or an older one has written it."""
        return value

    def is_of_weights(self, name: str) -> bool:
        """Tell whether weights or optimizer state would not fit after a change of this fact."""
        return name.startswith("model.")

    def _way_out(self, name: str, then: Any) -> str:
        """Say how to keep the run as it was, and how to change it."""
        if name == "global_batch_size":
            return (
                f"{_way_to_keep_the_batch(then)}, give another --output_dir, or change the batch "
                f"with --allow_changes {name}."
            )
        or_else = "" if self.is_of_weights(name) else f", or go on with --allow_changes {name}"
        return f"Use the run's own settings or give another --output_dir{or_else}."


def _way_to_keep_the_batch(rows: int) -> str:
    num_devices = launched_processes()
    if rows % num_devices:
        return f"{num_devices} processes cannot share {rows} rows; start a number that can"
    return f"Keep the run as it is with --global_batch_size {rows}"


def named(changes: dict[str, Sequence[Any]]) -> str:
    """Write changes as one line for the log."""
    return ", ".join(f"{name} {then!r} -> {now!r}" for name, (then, now) in changes.items())
