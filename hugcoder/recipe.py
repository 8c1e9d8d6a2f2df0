"""Turns recipes (YAML files of flags) into command-line words before the user's own.

One parser (HfArgumentParser over dataclasses) then checks both, so a recipe cannot hold what the
command line would refuse. Later recipes win over earlier ones, and flags win over recipes. Every
refusal names the flag, where each value came from and what is allowed. The defaults are in the
dataclasses, not here.
"""

import dataclasses
import itertools
import json
import logging
import os
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from hugcoder.flag_parser import FlagParser
from hugcoder.recipe_file import read_recipe
from hugcoder.refusal import Refusal
from hugcoder.setting import Setting, checked_setting

logger = logging.getLogger(__name__)

COMMAND_LINE = "the command line"


def parse(
    groups: Sequence[type],
    argv: Sequence[str] | None = None,
    *,
    description: str,
    positional: str = "",
    texts: Collection[str] = (),
    command: str = "",
) -> Any:
    """Parse recipe files, then flags, into one instance of each dataclass of `groups`.

    Args:
        argv: words after the program's name; leading ones that end in .yaml or .yml are recipe
        files.
        description: first paragraph of --help.
        positional: name of the field that a leading word sets, if the word is not a recipe.
        texts: names of the fields whose value is free text: the word after such a flag is its
        value, even if it begins with dashes, unless it is a flag of this program.
        command: what --help shows behind the program's name, as in `report RUN`.

    Returns: the instances in the order of `groups` (the instance itself for one group).
    Raises: Refusal for anything a user can repair.
    """
    parser = FlagParser(groups, description, command)
    words = _joined(parser, list(sys.argv[1:] if argv is None else argv), texts)
    if "--help" in words or "-h" in words:
        parser.print_help()
        sys.exit(0)
    settings = [
        setting if setting.name in texts else _found(setting)
        for setting in _without_replaced(parser, groups, _collect(parser, words, positional))
    ]
    try:
        parsed = parser.parse_args_into_dataclasses(_words(settings), look_for_args_file=False)
    except Refusal as refusal:
        raise Refusal(_with_places(str(refusal), settings)) from None
    except (ValueError, json.JSONDecodeError) as error:
        raise Refusal(_with_places(str(error), settings)) from error
    return parsed[0] if len(parsed) == 1 else parsed


def _joined(parser: FlagParser, words: list[str], texts: Collection[str]) -> list[str]:
    """Join each flag of `texts` with the word after it into one word, `--flag=word`.

    Raises: Refusal for a word that is not UTF-8, which no file or text can hold.
    """
    for word in words:
        if re.search("[\ud800-\udfff]", word):
            raise Refusal(
                f"{word!r} on {COMMAND_LINE} is not UTF-8, or the locale is not UTF-8 (it is "
                f"{sys.getfilesystemencoding()}); rename it, or run with PYTHONUTF8=1."
            )
    joined, rest = [], iter(words)
    for word in rest:
        if word.startswith("--") and word[2:].replace("-", "_") in texts:
            value = next(rest, None)
            if value is None or _is_flag(parser, value):
                behind = f", not {value}" if value else ""
                raise Refusal(
                    f"{word} must be followed by its text{behind}; a text that is the name of a "
                    f"flag is given as {word}={value or 'TEXT'}."
                )
            word = f"{word}={value}"
        joined.append(word)
    return joined


def _is_flag(parser: FlagParser, word: str) -> bool:
    """Tell whether a word is a flag other than --help, which may be a text."""
    name = word.partition("=")[0]
    return name.startswith("--") and name != "--help" and parser.flag(name[2:]) is not None


def _found(setting: Setting) -> Setting:
    """Resolve the paths of a setting. Raises: Refusal for an output folder without a name."""
    if setting.name == "output_dir" and not "".join(setting.words).strip():
        raise Refusal(
            f"output_dir is empty ({setting.place}), as from a variable that is not set; give a "
            "folder."
        )
    return dataclasses.replace(setting, words=tuple(from_anywhere(w) for w in setting.words))


def from_anywhere(word: str) -> str:
    """Resolve a path: ~/ is the home folder, even if no shell has expanded it.

    A path in configs/, as recipes name them, is HugCoder's own when it does not exist here.
    """
    if word.startswith("~/"):
        return os.path.expanduser(word)  # unchanged without a home folder
    shipped = Path(__file__).parent.parent / word
    is_theirs = word.startswith("configs/") and not Path(word).exists() and shipped.exists()
    return str(shipped) if is_theirs else word


def _collect(parser: FlagParser, words: list[str], positional: str) -> list[Setting]:
    """List all settings in the order in which they count, each with the place it came from."""
    settings: list[Setting] = []
    while words and not words[0].startswith("-"):
        word = words.pop(0)
        if word.endswith((".yaml", ".yml")):
            settings += read_recipe(Path(from_anywhere(word)), parser)
        elif positional and all(setting.name != positional for setting in settings):
            settings.append(Setting(positional, (word,), COMMAND_LINE))
        elif positional:
            raise Refusal(
                f"{word!r} stands where a recipe or a flag is expected; give one {positional}."
            )
        else:
            raise Refusal(
                f"{word!r} is neither a recipe (a .yaml file) nor a flag; recipes come first, then "
                f"--flags."
            )
    given = _command_line_settings(parser, words)
    again = [setting for setting in given if setting.name == positional]
    for first in settings:
        if again and first.place == COMMAND_LINE:
            raise Refusal(
                f"{positional} is given twice, as {first.value!r} and as --{positional} "
                f"{again[0].value}; give it once."
            )
    return settings + given


def _without_replaced(
    parser: FlagParser, groups: Sequence[type], settings: list[Setting]
) -> list[Setting]:
    """Drop settings that a later place replaces under another name.

    `_replaces` of a group names, for a setting, those that it replaces. Both in one place are kept,
    and the group refuses them.
    """
    final = {setting.name: setting for setting in settings}
    places = itertools.groupby(settings, key=lambda setting: setting.file)
    order = {s.name: number for number, (_, part) in enumerate(places) for s in part}
    for name, others in (pair for group in groups for pair in getattr(group, "_replaces", ())):
        says_nothing = name not in final or final[name].words == (str(parser.flag(name).default),)
        for other in others if not says_nothing else ():
            if other in final and order[other] < order[name]:
                gone, now = final.pop(other), final[name]
                logger.info(
                    "%s %s (%s) replaces %s %s (%s)",
                    *(now.name, now.value, now.place, gone.name, gone.value, gone.place),
                )
    return list(final.values())


def _command_line_settings(parser: FlagParser, words: list[str]) -> list[Setting]:
    settings: dict[str, Setting] = {}
    heads = [index for index, word in enumerate(words) if word.startswith("--")]
    if words and 0 not in heads:
        raise Refusal(f"unknown setting {words[0]!r} on {COMMAND_LINE}. See --help.")
    for start, stop in itertools.pairwise([*heads, len(words)]):
        name, equals, value = words[start][2:].partition("=")
        values = (value,) * bool(equals) + tuple(words[start + 1 : stop])
        action = parser.flag(name)
        if action is None:
            before = words[start - 1] if start else ""
            as_value = (
                f" As the value of {before}, write {before}={words[start]}."
                if _is_flag(parser, before) and "=" not in before
                else ""
            )
            raise Refusal(
                f"unknown setting {words[start]!r} on {COMMAND_LINE}. "
                f"{parser.suggestion(name.replace('-', '_'))}{as_value}"
            )
        for word in values[0 if action.nargs == "?" else 1 :]:
            if word.endswith((".yaml", ".yml")) and Path(from_anywhere(word)).is_file():
                raise Refusal(f"{word} stands after --{name}; recipes come first, then flags.")
        setting = checked_setting(action, values, COMMAND_LINE)
        if setting.name in settings:
            first = settings[setting.name].value
            raise Refusal(
                f"--{setting.name} is given twice on {COMMAND_LINE} ({first} and {setting.value}); "
                "give it once."
            )
        settings[setting.name] = setting
    return list(settings.values())


def _words(settings: list[Setting]) -> list[str]:
    """Return the command-line words of the settings that count; the last one of a name wins."""
    words = []
    for setting in {setting.name: setting for setting in settings}.values():
        if len(setting.words) == 1:  # in this form a value may begin with a minus
            words.append(f"--{setting.name}={setting.words[0]}")
        else:
            words += [f"--{setting.name}", *setting.words]
    return words


def _with_places(message: str, settings: list[Setting]) -> str:
    """Add to a refusal where the settings that it names were written."""
    final = {setting.name: setting for setting in settings}
    named = [
        s for s in final.values() if re.search(rf"(?<![\w.]){re.escape(s.name)}(?![\w])", message)
    ]
    places = [f"--{s.name} {s.value[:60]} comes from {s.place}" for s in named]
    return f"{message} ({'; '.join(places)})" if places else message


def assignments(words: Sequence[str], flag: str) -> dict[str, float]:
    """Parse words like `random=0.4` into a mapping of name to number; a name may contain `=`.

    Raises: Refusal naming `flag` for a word that is not name=number, a repeated name or a negative
    number.
    """
    values: dict[str, float] = {}
    for word in words:
        name, _, number = word.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            name = ""
        if not name:
            raise Refusal(f"{flag} takes words like name=0.5, not {word!r}.")
        if name in values or not 0 <= value < float("inf"):
            raise Refusal(
                f"{flag}: {word!r} must name each entry once with a number of at least 0."
            )
        values[name] = value
    return values
