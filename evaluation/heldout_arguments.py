"""The settings of `python -m evaluation heldout`. Holds no measuring."""

from dataclasses import dataclass
from typing import Literal

from hugcoder.generation.arguments import LoadedModelArguments
from hugcoder.ranges import SEED, check_ranges
from hugcoder.refusal import Refusal
from hugcoder.setting import with_help

COUNTS = ("max_documents", "max_bytes", "max_file_bytes")
COUNTS += ("num_spans", "max_new_tokens", "batch_tokens", "floor_bytes")


@dataclass
class HeldoutArguments(LoadedModelArguments):
    corpus: str = with_help("", "Corpus folder; its held-out files are what is scored.")
    output_dir: str = with_help("", "Where results.json goes; unset: `evaluation` in the run.")
    max_documents: int = with_help(60, "Files for bits per byte, spread evenly over repositories.")
    max_bytes: int = with_help(300_000, "Bytes of those files together.")
    max_file_bytes: int = with_help(32_768, "Larger files are left out, so that none dominates.")
    num_spans: int = with_help(
        500,
        "Holes of each kind: single line, multi-line, random, short; and as many places, half of "
        "them without a hole.",
    )
    max_new_tokens: int = with_help(
        128, "Tokens a generated middle may have; the prompt gets the rest."
    )
    mode: Literal["psm", "spm"] = with_help(
        "psm", "Order of the prompts that middles are generated from."
    )
    floor_bytes: int = with_help(
        40_000_000, "Bytes of the corpus's training split that the n-gram floor is made of."
    )
    batch_tokens: int = with_help(8192, "Tokens in one forward pass; lower it to save memory.")
    seed: int = with_help(0, "Seed of files, holes and bootstrap.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.corpus:
            raise Refusal("--corpus is not given; name the corpus folder to evaluate on.")
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise Refusal(f"{name} {getattr(self, name)} must be at least 1.")
        check_ranges(self, {"seed": SEED})
