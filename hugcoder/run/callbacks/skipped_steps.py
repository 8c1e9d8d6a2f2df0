"""Writes skipped_steps.jsonl in the run folder: each skipped update, and the documents in it."""

import logging
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback

from hugcoder.files import append_line, cut_back

logger = logging.getLogger(__name__)

DocumentsIn = Callable[[int, int], list[dict[str, str]]]  # rows start to stop -> repo and path
NAMED_DOCUMENTS = 3  # in the log; the file names them all


class SkippedSteps(TrainerCallback):
    """Records skipped steps at once; a resumed run cuts off those that it will record again."""

    def __init__(self, path: Path, documents_in: DocumentsIn, rows_per_step: int):
        self.path, self.documents_in, self.rows_per_step = path, documents_in, rows_per_step

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            cut_back(self.path, state.global_step)

    def tell(self, step: int, norm: float, bound: float | None) -> None:
        """Log and write a step; on rank 0 only.

        Args: step: as in metrics.jsonl, the first is 1.
        """
        start, stop = (step - 1) * self.rows_per_step, step * self.rows_per_step
        documents = self.documents_in(start, stop)
        line = {"step": step, "grad_norm": norm, "bound": bound, "rows": [start, stop]}
        append_line(self.path, line | {"documents": documents})
        named = [f"{document['repo']}/{document['path']}" for document in documents]
        logger.warning(
            "step %s is skipped: gradient norm %s%s; rows %s to %s hold %s documents (%s%s)",
            f"{step:,}",
            f"{norm:.4g}",
            "" if bound is None else f", bound {bound:.4g}",
            start,
            stop - 1,
            len(documents),
            ", ".join(named[:NAMED_DOCUMENTS]),
            ", ..." if len(named) > NAMED_DOCUMENTS else "",
        )
