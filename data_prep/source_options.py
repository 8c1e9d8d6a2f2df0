"""The values that options of a source may have, each as its reader wants it.

Words on the command line are text; JSON and YAML have numbers and lists too, and may have the wrong
ones.
"""

import difflib
from typing import Any

from data_prep.document import is_utf8
from data_prep.layout import MAX_DEPTH
from data_prep.table_rows import KNOWN_COLUMNS
from hugcoder.refusal import Refusal

MAX_ROWS, MAX_DIGITS = 10**15, 4_000  # Python reads no number of 4,300 digits
SHOWN = 60  # characters of a wrong value
NUMBERS = {"depth": (1, MAX_DEPTH), "max_rows": (0, MAX_ROWS)}  # the least and the most
FLAGS = ("stdlib", "stdlib_tests")


def checked(name: str, value: Any) -> Any:
    """The value of an option: text, or what its name asks for. Raises: Refusal for a wrong one."""
    if name in NUMBERS:
        return _number(name, value)
    if name in FLAGS:
        return _flag(name, value)
    if name == "columns":
        return _columns(value)
    if name == "distributions" and isinstance(value, list):
        return [_text("distributions", entry) for entry in value]
    return _text(name, value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise Refusal(f"sources: {name} is {value!r}, {_kind(value)}; give text in quotes.")
    if not value.strip():
        raise Refusal(f"sources: {name} is empty; give it a value or leave it out.")
    if "\0" in value or not is_utf8(value):
        raise Refusal(
            f"sources: {name} is {value!r}, which cannot be written as UTF-8 text; rename it, or "
            "make a link to it that has another name and give that."
        )
    return value


def _number(name: str, value: Any) -> int:
    least, most = NUMBERS[name]
    number = _whole_number(value)
    if number is None or not least <= number <= most:
        limits = f"a number from {least} to {most:,}" if least else "a number, 0 for all"
        raise Refusal(f"sources: {name} is {_shown(value)}; give {limits}.")
    return number


def _whole_number(value: Any) -> int | None:
    """The number that JSON or text gives; None for no number or too many digits."""
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    is_number = isinstance(value, str) and value.isascii() and value.isdigit()
    return int(value) if is_number and len(value) <= MAX_DIGITS else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _flag(name: str, value: Any) -> bool:
    if str(value).lower() not in ("true", "false"):
        raise Refusal(f"sources: {name} is {value!r}; give true or false.")
    return str(value).lower() == "true"


def _columns(value: Any) -> dict[str, str]:
    """Our names of columns, each with the table's name."""
    if not isinstance(value, dict):
        raise Refusal(
            f"sources: columns is {value!r}, {_kind(value)}; give an object of roles and columns "
            'in JSON, {"columns": {"content": "text"}}, with the roles '
            f"{', '.join(KNOWN_COLUMNS)}."
        )
    for role in value:
        if role not in KNOWN_COLUMNS:
            close = difflib.get_close_matches(role, KNOWN_COLUMNS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(KNOWN_COLUMNS)}."
            raise Refusal(f"sources: columns names a role {role!r}; {hint}")
    return {role: _text(f"the column of {role}", column) for role, column in value.items()}


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", list: "a list"}
    kinds |= {dict: "an object", str: "text"}
    return kinds.get(type(value), "nothing")
