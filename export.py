"""Export a checkpoint of any engine as a model folder that any Hugging Face program opens.

    python export.py runs/x/checkpoint-1000 --output_dir out
    python export.py runs/x/checkpoint-1000 --output_dir out --dtype bfloat16

Needs no GPU. Needs memory for one output file of 5 GB; from ZeRO-1 and ZeRO-2, for the whole model.
The checkpoint is verified first and never changed. `hugcoder.run.export_weights` does the work.
A finished run needs no export: its model is in RUN/model.
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hugcoder.recipe import parse
from hugcoder.refusal import Refusal, entry_point
from hugcoder.setting import with_help

DESCRIPTION = "Export a checkpoint's weights: python export.py CHECKPOINT --output_dir FOLDER."


@dataclass
class ExportArguments:
    checkpoint: str = with_help("", "Folder of a checkpoint of train.py; the first word.")
    output_dir: str = with_help("", "New folder for the weights, config and tokenizer.")
    dtype: Literal["float32", "bfloat16", "float16"] | None = with_help(
        None, "Precision of the weights; unset keeps that of training (float32)."
    )

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise Refusal("no checkpoint is given; the first word must be a checkpoint folder.")
        if not self.output_dir:
            raise Refusal("output_dir is not given; give --output_dir FOLDER for the model.")


def main(argv: list[str] | None = None) -> None:
    arguments = parse([ExportArguments], argv, description=DESCRIPTION, positional="checkpoint")
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)

    import torch

    from hugcoder.ownership import owned
    from hugcoder.run.export_weights import export_checkpoint

    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    with owned(Path(arguments.output_dir)):
        export_checkpoint(Path(arguments.checkpoint), Path(arguments.output_dir), dtype)
    logging.getLogger("export").info("the model is in %s", arguments.output_dir)


if __name__ == "__main__":
    entry_point(main)()
