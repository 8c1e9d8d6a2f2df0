"""Measure a model, or write the report of a run.

    python -m evaluation heldout MODEL --corpus FOLDER      (the word heldout may be left out)
    python -m evaluation report RUN

Holds the table of contents: each command is the main() of the module of its name beside this file.
A measurement writes its scores with `evaluation.results`, and the report finds them.
"""

import difflib
import logging
import sys
from importlib import import_module
from pathlib import Path

from hugcoder.hub import did_you_mean
from hugcoder.refusal import Refusal, entry_point

MEASURED_BY_DEFAULT = "heldout"
COMMANDS = {
    "heldout": "bits per byte, true middles and generated middles of a corpus's held-out files",
    "report": "one HTML page about a run, with everything that was measured of it",
}


def contents() -> str:
    """What --help shows: the commands with a line each."""
    lines = [f"  {name:<12}{line}" for name, line in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m evaluation COMMAND ...",
            "",
            "Measure a model, or write the report of a run.",
            "",
            *lines,
            "",
            "`python -m evaluation COMMAND --help` shows the settings of a command.",
            f"`python -m evaluation MODEL ...` is short for {MEASURED_BY_DEFAULT} MODEL.",
        ]
    )


def split(words: list[str]) -> tuple[str, list[str]]:
    """The command and the words behind it. Raises: Refusal when the first is no word we know."""
    first = words[0] if words else ""
    if first in COMMANDS:
        return first, words[1:]
    is_setting = not first or first.startswith("-") or first.endswith((".yaml", ".yml"))
    if not is_setting and "/" not in first and not Path(first).exists():
        near = difflib.get_close_matches(first, COMMANDS, n=1)
        hint = f" Did you mean {near[0]}?" if near else did_you_mean(first)
        raise Refusal(
            f"{first!r} is neither a command ({', '.join(COMMANDS)}) nor a model: there is no "
            f"folder of that name.{hint}"
        )
    return MEASURED_BY_DEFAULT, words


def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if words[:1] in (["--help"], ["-h"]):
        print(contents())
        return
    command, rest = split(words)
    import_module(f"evaluation.{command}").main(rest)


if __name__ == "__main__":
    entry_point(main)()
