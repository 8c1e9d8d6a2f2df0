"""Defines the settings of `python -m tokenizer` and `python -m tokenizer measure`.

Holds the dataclasses that `hugcoder.recipe` parses, with their checks.
"""

from dataclasses import dataclass, field
from typing import Literal

from hugcoder.data.special_tokens import NUM_SPECIAL_TOKENS
from hugcoder.refusal import Refusal
from hugcoder.setting import with_help

NUM_BYTES = 256
MIN_VOCAB_SIZE = NUM_SPECIAL_TOKENS + NUM_BYTES
MAX_VOCAB_SIZE = 2**20
MAX_BYTES = 10**15


@dataclass
class TokenizerArguments:
    """Sets what the tokenizer is trained on and how large it becomes."""

    corpus: str = field(
        metadata={"help": "folder of a corpus made by `python -m data_prep`; its train split"}
    )
    output_dir: str = field(metadata={"help": "folder the tokenizer is written to"})
    vocab_size: int = with_help(
        49_152,
        "tokens in the finished tokenizer, the 64 special ones and the 256 bytes "
        "included; more make sequences shorter and embeddings larger",
    )
    pattern: Literal["standard", "compact", "lines"] = with_help(
        "standard",
        "boundaries that no merge crosses: standard is the Qwen regex, which llama.cpp "
        "and fast encoders know; compact joins punctuation with the newline and indentation "
        "that follow: 6 to 8 percent fewer tokens, effect on a model not measured; lines keeps "
        "newline and indentation apart from the text of a line, which therefore begins and ends "
        "between tokens, as the middles that editors ask for do",
    )
    sample_bytes: int = with_help(
        200_000_000,
        "bytes of text to learn from, shared equally by the languages; one CPU-second "
        "handles about 2 MB of code, or a third of a MB of text without spaces",
    )
    max_document_bytes: int = with_help(
        100_000,
        "bytes of one file to learn from; the rest is cut off, so that a large "
        "generated file does not get tokens of its own",
    )
    seed: int = with_help(0, "chooses which files are learned from; any integer")

    def __post_init__(self) -> None:
        if self.vocab_size < MIN_VOCAB_SIZE:
            raise Refusal(
                f"vocab_size {self.vocab_size:,} is too small: {NUM_SPECIAL_TOKENS} special tokens "
                f"and {NUM_BYTES} bytes come first; give at least {MIN_VOCAB_SIZE}."
            )
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise Refusal(
                f"vocab_size {self.vocab_size:,} is too large; give at most {MAX_VOCAB_SIZE:,}, "
                "four times the largest known vocabulary."
            )
        check_positive(self, "sample_bytes", "max_document_bytes")


@dataclass
class MeasureArguments:
    """Sets which tokenizer is measured, and on which text."""

    tokenizer: str = field(
        metadata={"help": "folder with a byte-level tokenizer.json; measure.json is written there"}
    )
    corpus: str = field(metadata={"help": "folder of a corpus made by `python -m data_prep`"})
    split: Literal["held_out", "train"] = with_help(
        "held_out", "split to measure on; train holds the text it was learned from"
    )
    max_bytes: int = with_help(
        20_000_000, "bytes of text to measure on, shared equally by the languages"
    )
    max_document_bytes: int = with_help(1_000_000, "bytes of one file that are measured")
    seed: int = with_help(0, "chooses which files are measured; any integer")

    def __post_init__(self) -> None:
        check_positive(self, "max_bytes", "max_document_bytes")


def check_positive(arguments: TokenizerArguments | MeasureArguments, *names: str) -> None:
    """Check settings that count bytes. Raises: Refusal when one is out of range."""
    for name in names:
        value = getattr(arguments, name)
        if not 1 <= value <= MAX_BYTES:
            raise Refusal(f"{name} {value} counts bytes; give at least 1, at most {MAX_BYTES:,}.")
