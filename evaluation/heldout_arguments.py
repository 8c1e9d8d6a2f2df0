"""The settings of `python -m evaluation heldout`. Holds no measuring."""

from dataclasses import dataclass, field
from typing import Literal

from hugcoder.ranges import SEED, check_ranges
from hugcoder.refusal import Refusal

COUNTS = ("max_documents", "max_bytes", "max_file_bytes")
COUNTS += ("num_spans", "max_new_tokens", "batch_tokens")


@dataclass
class HeldoutArguments:
    model: str = field(
        default="", metadata={"help": "Run folder, its model/ folder, or hub name; the first word."}
    )
    corpus: str = field(
        default="", metadata={"help": "Corpus folder; its held-out files are what is scored."}
    )
    output_dir: str = field(
        default="", metadata={"help": "Where results.json goes; unset: `evaluation` in the run."}
    )
    max_documents: int = field(
        default=60, metadata={"help": "Files for bits per byte, spread evenly over repositories."}
    )
    max_bytes: int = field(default=300_000, metadata={"help": "Bytes of those files together."})
    max_file_bytes: int = field(
        default=32_768, metadata={"help": "Larger files are left out, so that none dominates."}
    )
    num_spans: int = field(
        default=40, metadata={"help": "Holes of each kind: single line, multi-line, random."}
    )
    max_new_tokens: int = field(
        default=128,
        metadata={"help": "Tokens a generated middle may have; the prompt gets the rest."},
    )
    mode: Literal["psm", "spm"] = field(
        default="psm", metadata={"help": "Order of the prompts that middles are generated from."}
    )
    batch_tokens: int = field(
        default=8192,
        metadata={"help": "Tokens in one forward pass; lower it to save memory."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of files, holes and bootstrap."})
    device: str | None = field(
        default=None, metadata={"help": "torch device; unset takes the accelerator if any."}
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = field(
        default=None, metadata={"help": "Precision; unset: float32 on the CPU, else bfloat16."}
    )

    def __post_init__(self) -> None:
        if not self.model:
            raise Refusal("no model is given; the first word must be a model or run folder.")
        if not self.corpus:
            raise Refusal("--corpus is not given; name the corpus folder to evaluate on.")
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise Refusal(f"{name} {getattr(self, name)} must be at least 1.")
        check_ranges(self, {"seed": SEED})
