"""Measure a model, or write the report of a run: python -m evaluation COMMAND ...

Holds the table of contents. A command is the main() of the module that has its name, beside this
file; a measurement writes its scores by `evaluation.results`, and the report finds them there.
"""

import difflib
import logging
import sys
from importlib import import_module
from pathlib import Path

from hugcoder.hub import did_you_mean
from hugcoder.refusal import Refusal, entry_point

COMMANDS = {
    "heldout": "Score a model on the files that a corpus holds out: code, middles, answers.",
    "report": "Write one HTML page about a run, with everything that was measured of it.",
}
UNNAMED = "heldout"  # what runs when a model stands in the place of a command
HELP = """usage: python -m evaluation COMMAND ...

`python -m evaluation COMMAND --help` shows the settings of a command.
`python -m evaluation MODEL ...` is short for `python -m evaluation heldout MODEL ...`.

commands:"""


def command_of(words: list[str]) -> str:
    """The command that is meant. Raises: Refusal when the first word is no command and no model."""
    first = words[0] if words else ""
    if first in COMMANDS:
        return first
    is_setting = first.startswith("-") or first.endswith((".yaml", ".yml"))
    if first and not is_setting and "/" not in first and not Path(first).exists():
        near = difflib.get_close_matches(first, COMMANDS, n=1)
        raise Refusal(
            f"{first!r} is neither a command ({', '.join(COMMANDS)}) nor a folder with a model; "
            "give one of them, or a hub name such as bigcode/starcoder2-3b."
            + (f" Did you mean {near[0]}?" if near else did_you_mean(first))
        )
    return UNNAMED


def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if words[:1] in (["--help"], ["-h"]):
        print(HELP, *(f"  {name:<12}{line}" for name, line in COMMANDS.items()), sep="\n")
        return
    command = command_of(words)
    own_words = words[1:] if words[:1] == [command] else words
    import_module(f"evaluation.{command}").main(own_words)


if __name__ == "__main__":
    entry_point(main)()
