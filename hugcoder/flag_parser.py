"""Parses flags with HfArgumentParser over groups of dataclasses; errors become refusals."""

import argparse
import dataclasses
import difflib
import inspect
import re
import typing
from collections.abc import Sequence
from typing import Any

from transformers import HfArgumentParser

from hugcoder.refusal import Refusal, program_name

LIBRARIES = {"transformers", "trl"}  # our groups may inherit settings from these


class FlagParser(HfArgumentParser):
    """Raises instead of exiting, and lists a subclass's own fields before inherited ones."""

    def __init__(self, groups: Sequence[type], description: str, command: str):
        super().__init__(
            groups,
            prog=program_name(),
            usage=" ".join(
                ["%(prog)s", *command.split(), "[RECIPE.yaml ...] [--setting value ...]"]
            ),
            description=description,
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
        )
        self.mappings = {  # settings that may be given as a mapping
            name
            for group in groups
            for name, hint in typing.get_type_hints(group).items()
            if "dict" in str(hint)
        }
        self._action_groups.sort(key=lambda group: "transformers" in (group.title or ""))

    def _add_dataclass_arguments(self, dtype: type) -> None:
        ours = [cls for cls in dtype.__mro__ if cls.__module__.partition(".")[0] not in LIBRARIES]
        inherited = {field.name for field in dataclasses.fields(dtype)}
        inherited -= {name for cls in ours for name in inspect.get_annotations(cls)}
        own = self.add_argument_group(getattr(dtype, "_argument_group_name", dtype.__name__))
        rest = (
            self.add_argument_group("every other setting of the transformers Trainer")
            if inherited
            else own
        )
        hints = typing.get_type_hints(dtype)
        for field in sorted(
            (f for f in dataclasses.fields(dtype) if f.init), key=lambda f: f.name in inherited
        ):
            field.type = hints[field.name]
            self._parse_dataclass_field(rest if field.name in inherited else own, field)

    def error(self, message: str):
        raise Refusal(re.sub(r"^argument (--\w+)(/--[\w-]+)*", r"\1", message))

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if action.nargs is None and arg_strings == ["--"]:  # argparse would drop its separator
            return "--"
        return super()._get_values(action, arg_strings)

    def flag(self, name: str) -> argparse.Action | None:
        return self._option_string_actions.get(f"--{name}")

    def suggestion(self, name: str) -> str:
        options = [option for option in self._option_string_actions if option.startswith("--")]
        known = [option[2:] for option in options if "-" not in option[2:]]
        close = difflib.get_close_matches(name, known, n=1)
        return f"Did you mean {close[0]!r}?" if close else "See --help for the settings there are."


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but no `None` and no dashed spellings."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help or "").strip().replace("%%", "%")  # some helps are escaped, some not
        text = text.replace("%", "%%").replace("%%(default)", "%(default)")
        shown = action.default not in (None, argparse.SUPPRESS, [], "") and "%(default)" not in text
        return f"{text} (default: %(default)s)" if shown and action.option_strings else text

    def _format_action_invocation(self, action: argparse.Action) -> str:
        option = action.option_strings[0] if action.option_strings else action.dest
        if action.choices:
            return f"{option} {{{','.join(str(choice) for choice in action.choices)}}}"
        return option if action.nargs in (0, "?") else f"{option} {action.dest.upper()}"
