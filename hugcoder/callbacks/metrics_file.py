"""metrics.jsonl in the run folder: one line for each log event, always, whatever `report_to`
says."""

import json
import time
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations.integration_utils import rewrite_logs

from hugcoder.files import atomic


class MetricsFile(TrainerCallback):
    """Names as trackers show them: train/loss, eval/bits_per_byte; see docs/metrics.md."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args, state, control, **kwargs):
        """Cut off what a resumed run will log again."""
        if state.is_world_process_zero:
            cut_back(self.path, state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero:
            return
        values = {name: float(f"{value:.6g}") for name, value in rewrite_logs(dict(logs)).items()}
        line = {"step": state.global_step, "time": round(time.time(), 2), **values}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def cut_back(path: Path, step: int) -> None:
    """Keep the lines of a file of JSON lines, if it is there, that do not lie after `step`."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        with atomic(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _step_of(line: str) -> float:
    """The step of a line; a torn last line counts as infinitely late."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")
