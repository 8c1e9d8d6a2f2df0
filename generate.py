"""Complete a text or fill a hole in a file with a checkpoint, streaming.

    python generate.py runs/quickstart/model --prompt "def read("
    python generate.py runs/quickstart/model --infill path/to/file.py:120:8
    python generate.py runs/quickstart/model --infill notes.py     (with <FILL> and </FILL> in it)

Standard output gets only the new text; one line on standard error says how the generation ended.
The file is never changed. Holds the search for the hole; `hugcoder.generation` does the rest.
"""

import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hugcoder.generation.arguments import LoadedModelArguments
from hugcoder.ranges import SEED, Range, check_ranges
from hugcoder.recipe import parse
from hugcoder.refusal import Refusal, entry_point
from hugcoder.setting import with_help

DESCRIPTION = """Complete a text or fill a hole in a file: python generate.py MODEL --prompt TEXT,
or --infill FILE:LINE:COLUMN. LINE and COLUMN are counted from 1; COLUMN counts characters (a tab is
one, an accented letter is one). So FILE:1:1 is before the first character of the file, and the
column after the last character of a line is the line's length plus 1; FILE:LINE means that one.
The word after --prompt is the text, even if it begins with dashes. A prompt that is longer than
the model's context is cut, and a line on standard error says so."""
DIGITS = 18  # of a line or column number that are read; no file is that long
TEXTS = ("prompt", "start_mark", "end_mark")


@dataclass
class GenerateArguments(LoadedModelArguments):
    prompt: str = with_help("", "Text to continue.")
    prompt_file: str = with_help("", "File whose text to continue.")
    infill: str = with_help(
        "",
        "Cursor as FILE:LINE:COLUMN or FILE:LINE (the line's end); or FILE with a hole "
        "between the two marks. Text between the marks is left out.",
    )
    start_mark: str = with_help("<FILL>", "Where the hole of a file begins.")
    end_mark: str = with_help("</FILL>", "Where the hole of a file ends.")
    mode: Literal["psm", "spm"] = with_help(
        "psm", "Order in an infilling prompt: prefix or suffix first."
    )
    max_new_tokens: int = with_help(128, "Stop after so many tokens.")
    temperature: float = with_help(0.0, "0 takes the likeliest token; higher draws more freely.")
    top_p: float = with_help(
        1.0, "Draw from the likeliest tokens that together have this probability."
    )
    seed: int = with_help(0, "Seed of the draws.")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [f"--{n}" for n in ("prompt", "prompt_file", "infill") if getattr(self, n)]
        if len(given) != 1:
            raise Refusal(
                f"exactly one of --prompt, --prompt_file and --infill must be given, not "
                f"{' and '.join(given) or 'none'}."
            )
        if self.max_new_tokens < 1:
            raise Refusal(f"max_new_tokens {self.max_new_tokens} must be at least 1.")
        check_ranges(self, {"seed": SEED, "top_p": Range(1e-6, 1)})
        if self.temperature and not Range(1e-3, 1e3).holds(self.temperature):  # it would overflow
            raise Refusal(f"temperature {self.temperature} must be 0, or 0.001 to 1,000.")
        for name, is_given in (("top_p", self.top_p < 1), ("seed", bool(self.seed))):
            if is_given and self.temperature == 0:
                raise Refusal(
                    f"{name} {getattr(self, name)} has no effect at temperature 0, which draws "
                    "nothing; give a temperature above 0."
                )
        if not self.start_mark or not self.end_mark or self.start_mark == self.end_mark:
            raise Refusal("start_mark and end_mark must be two different texts.")


@dataclass(frozen=True)
class Hole:
    """Holds the text before and after a hole, with LF for newlines whatever the file has."""

    prefix: str
    suffix: str
    newline: str  # the file's


def read_text(path: Path) -> str:
    """Read a UTF-8 file and keep its newlines. Raises: Refusal when it is missing or not UTF-8."""
    if not path.is_file():
        raise Refusal(f"{path} is not a file; give the path of a text file.")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(f"{path} is not UTF-8 (byte {error.start}); convert it first.") from None


def find_hole(infill: str, start_mark: str, end_mark: str) -> Hole:
    """Find the place that --infill names.

    Raises: Refusal when the file, the position or the marks are not there.
    """
    position = re.fullmatch(r"(.+?):(\d+)(?::(\d+))?", infill)
    if position and not position[3] and Path(infill).is_file():
        position = None
    path = Path(position[1] if position else infill)
    text = read_text(path)
    is_crlf = "\r\n" in text and text.count("\r\n") == text.count("\n")
    if is_crlf:  # models have mostly seen LF; the answer is written with the file's own newlines
        text = text.replace("\r\n", "\n")
    if position:
        line, column = (
            int(number[:DIGITS]) if number else None for number in position.groups()[1:]
        )
        start = stop = _offset(text, path, line, column)
        prefix, suffix = text[:start], text[stop:]
    else:
        prefix, suffix = _around_marks(text, path, start_mark, end_mark)
    return Hole(prefix, suffix, "\r\n" if is_crlf else "\n")


def _offset(text: str, path: Path, line: int, column: int | None) -> int:
    """Count the characters before a position (line and column from 1; None = the line's end)."""
    lines = text.split("\n")
    if not 1 <= line <= len(lines):
        raise Refusal(f"{path} has lines 1 to {len(lines)}, so line {line} is outside the file.")
    column = len(lines[line - 1]) + 1 if column is None else column
    if not 1 <= column <= len(lines[line - 1]) + 1:
        raise Refusal(
            f"line {line} of {path} has columns 1 to {len(lines[line - 1]) + 1} (counted in "
            f"characters), so column {column} is outside the line."
        )
    return sum(len(before) + 1 for before in lines[: line - 1]) + column - 1


def _around_marks(text: str, path: Path, start_mark: str, end_mark: str) -> tuple[str, str]:
    prefix, start, rest = text.partition(start_mark)
    _, end, suffix = rest.partition(end_mark)
    if not start or not end or start_mark in rest or end_mark in suffix:
        raise Refusal(
            f"{path} must hold {start_mark} and after it {end_mark}, each once, around the hole; "
            f"put them there, or give a cursor as {path}:LINE:COLUMN."
        )
    return prefix, suffix


def end_sentence(last: int | None, stops: frozenset[int], special_ids: dict[str, int]) -> str:
    """Say how a generation ended, from its last id."""
    if last not in stops:
        return "stopped at max_new_tokens"
    names = {index: name for name, index in special_ids.items()}
    return f"stopped at {names.get(last, last)}"


def _recording(ids: Iterator[int], record: list[int]) -> Iterator[int]:
    for index in ids:
        record.append(index)
        yield index


def main(argv: list[str] | None = None) -> None:
    groups = [GenerateArguments]
    arguments = parse(groups, argv, description=DESCRIPTION, positional="model", texts=TEXTS)
    hole, text = None, arguments.prompt
    if arguments.infill:
        hole = find_hole(arguments.infill, arguments.start_mark, arguments.end_mark)
    elif arguments.prompt_file:
        text = read_text(Path(arguments.prompt_file))

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    from hugcoder.generation import decoding
    from hugcoder.generation.loading import load_checkpoint
    from hugcoder.generation.prompts import (
        completion_prompt,
        context_length,
        infill_prompt,
        prompt_room,
    )
    from hugcoder.generation.streaming import stream_text

    model, codec = load_checkpoint(
        arguments.model, arguments.device, arguments.dtype, arguments.spm_variant
    )
    room = prompt_room(model, arguments.max_new_tokens)
    prompts = (
        infill_prompt(codec, hole.prefix, hole.suffix, arguments.mode, limit)
        if hole
        else completion_prompt(codec, text, limit)
        for limit in (sys.maxsize, room)
    )
    whole, prompt = prompts
    num_kept, num_tokens = (len(one.ids) + len(one.last) for one in (prompt, whole))
    if num_kept < num_tokens:
        print(
            f"context cut to {num_kept:,} of {num_tokens:,} tokens: the model has room "
            f"for {context_length(model):,}, of which max_new_tokens keeps "
            f"{arguments.max_new_tokens:,}",
            file=sys.stderr,
        )
    ending = decoding.ending_of(model, codec)
    sampling = decoding.Sampling(arguments.temperature, arguments.top_p, arguments.seed)

    new_ids: list[int] = []
    start = time.perf_counter()
    beginning = codec.healing.beginning(prompt.last)
    must = decoding.Must(codec.healing, [beginning])
    most = arguments.max_new_tokens + len(prompt.last)  # the token before the cursor comes again
    stream = decoding.stream_tokens(model, prompt.ids, ending, most, sampling, must)
    for piece in stream_text(codec, _recording(stream, new_ids), ending.stops, len(beginning)):
        sys.stdout.write(piece.replace("\n", hole.newline) if hole else piece)
        sys.stdout.flush()
    seconds = time.perf_counter() - start
    print(
        "\n"
        * sys.stdout.isatty()  # the answer does not end its last line
        + f"{len(new_ids)} tokens in {seconds:.2f} s ({len(new_ids) / seconds:.0f} tokens/s), "
        f"{end_sentence(new_ids[-1], ending.stops, codec.special_ids)}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    entry_point(main)()
