"""Writes one readable log line for each event, with the time left."""

import logging
import time

from transformers import TrainerCallback

logger = logging.getLogger(__name__)


class Progress(TrainerCallback):
    """Replaces the Trainer's progress bar, which prints every metric as a dictionary."""

    def on_train_begin(self, args, state, control, **kwargs):
        self._began, self._first_step = time.perf_counter(), state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero:
            return
        step = f"step {state.global_step:,}/{state.max_steps:,}"
        if "loss" in logs:
            logger.info("%s  %s  %s left", step, _training(logs), self._left(state))
        elif held_out := _held_out(logs):
            logger.info("%s  held out: %s", step, held_out)

    def _left(self, state) -> str:
        done = max(state.global_step - self._first_step, 1)
        seconds = (time.perf_counter() - self._began) / done * (state.max_steps - state.global_step)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}"


def _training(logs: dict[str, float]) -> str:
    parts = [f"loss {logs['loss']:.3f}"]
    for name, label in (("loss_ar", "left-to-right"), ("loss_middle", "middle")):
        if name in logs:
            parts.append(f"{label} {logs[name]:.3f}")
    if "tokens_per_second" in logs:
        parts.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
    if "mfu" in logs:
        parts.append(f"MFU {logs['mfu']:.1%}")
    return "  ".join(parts)


def _held_out(logs: dict[str, float]) -> str:
    """Format the held-out scores in the logs; "" when there are none."""
    labels = {
        "eval_bits_per_byte": "%.3f bits per byte",
        "eval_middle_bits_per_byte": "middles %.3f",
        "eval_single_line_end_probability_psm": "ends of lines %.2f in PSM",
        "eval_single_line_end_probability_spm": "%.2f in SPM",
    }
    return ", ".join(label % logs[name] for name, label in labels.items() if name in logs)
