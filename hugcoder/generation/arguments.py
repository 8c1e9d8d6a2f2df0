"""Defines the settings of a loaded model; a program adds its own after them."""

from dataclasses import dataclass
from typing import Literal

from hugcoder.refusal import Refusal
from hugcoder.setting import with_help


@dataclass
class LoadedModelArguments:
    """Says which model to load, on which device and in which precision."""

    model: str = with_help(
        "", "Run folder, its model/ folder, or the name of a model on the hub; the first word."
    )
    device: str | None = with_help(None, "torch device; unset takes the accelerator if any.")
    dtype: Literal["float32", "bfloat16", "float16"] | None = with_help(
        None, "Precision; unset: float32 on the CPU, else bfloat16."
    )

    spm_variant: Literal[0, 1, 2] = with_help(
        0,
        "Order of suffix-prefix-middle that the model was trained in: 1 = Mellum's, 2 = "
        "StarCoder's; 0 = as its config.json says, else 2.",
    )

    def __post_init__(self) -> None:
        if not self.model:
            raise Refusal("no model is given; the first word must be a model or run folder.")
