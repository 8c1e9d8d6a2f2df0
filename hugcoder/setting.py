"""Holds a flag's help, and its words with the place where they were written."""

import argparse
from dataclasses import dataclass, field
from typing import Any

from hugcoder.refusal import Refusal


def with_help(default: Any, text: str) -> Any:
    """Make a field of a group of arguments; the help says its effect and its unit. Each group gets
    a copy of a default that is a list.
    """
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Setting:
    """Holds a flag's words and where they were written ("configs/recipes/a.yaml line 3")."""

    name: str
    words: tuple[str, ...]
    place: str

    @property
    def file(self) -> str:
        """Return the place without its line."""
        return self.place.rpartition(" line ")[0] or self.place

    @property
    def value(self) -> str:
        return " ".join(self.words) if self.words else "true"


def checked_setting(action: argparse.Action, values: tuple[str, ...], place: str) -> Setting:
    """Make a setting under its field's name, however the flag was spelled.

    Raises: Refusal when several values are given for one.
    """
    if isinstance(action, argparse._StoreFalseAction):  # --no_x stands for x = false
        if values:
            raise Refusal(f"{place}: no_{action.dest} takes no value; give {action.dest} false.")
        return Setting(action.dest, ("false",), place)
    if action.nargs != "+" and len(values) > 1:
        raise Refusal(
            f"{place}: {action.dest} takes one value, not {len(values)}: {' '.join(values)}."
        )
    return Setting(action.dest, values, place)
