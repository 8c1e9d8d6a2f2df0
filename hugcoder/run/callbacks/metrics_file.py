"""Writes metrics.jsonl in the run folder: one line for each log event, whatever `report_to` is."""

import time
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations.integration_utils import rewrite_logs

from hugcoder.files import append_line, cut_back

CLOSING = ("eval/", "train/train_")  # scores and summary, written once the last step is made


class MetricsFile(TrainerCallback):
    """Writes names as trackers show them: train/loss, eval/bits_per_byte; see docs/metrics.md."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args, state, control, **kwargs):
        """Cut off what a resumed run will log again; at the last step, also the closing lines."""
        if state.is_world_process_zero:
            is_over = state.global_step >= state.max_steps
            cut_back(self.path, state.global_step, CLOSING if is_over else ())

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero:
            return
        values = {name: float(f"{value:.6g}") for name, value in rewrite_logs(dict(logs)).items()}
        now = {"step": state.global_step, "time": round(time.time(), 2)}
        append_line(self.path, now | values)
