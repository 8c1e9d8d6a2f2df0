"""A flag: its help, and its words with the place they were written at."""

import argparse
from dataclasses import dataclass, field
from typing import Any

from hugcoder.refusal import Refusal


def with_help(default: Any, text: str) -> Any:
    """A field of a group of arguments, whose help says its effect and its unit."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Setting:
    """One flag with its words and the place it was written at ("configs/recipes/a.yaml line 3")."""

    name: str
    words: tuple[str, ...]
    place: str

    @property
    def file(self) -> str:
        """The place without its line."""
        return self.place.rpartition(" line ")[0] or self.place

    @property
    def value(self) -> str:
        return " ".join(self.words) if self.words else "true"


def checked_setting(action: argparse.Action, values: tuple[str, ...], place: str) -> Setting:
    """A setting under its field's name, whichever way it was spelled.

    Raises: Refusal when one value is wanted and several are given.
    """
    if isinstance(action, argparse._StoreFalseAction):  # --no_x stands for x = false
        if values:
            raise Refusal(f"{place}: no_{action.dest} takes no value; say {action.dest} false.")
        return Setting(action.dest, ("false",), place)
    if action.nargs != "+" and len(values) > 1:
        raise Refusal(
            f"{place}: {action.dest} takes one value, not {len(values)}: {' '.join(values)}."
        )
    return Setting(action.dest, values, place)
