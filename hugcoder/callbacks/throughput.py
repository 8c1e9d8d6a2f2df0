"""Tokens per second, MFU and memory of the steps since the last log line.

Time spent in evaluation and saving does not count. Reads the clock only where the Trainer has just
synchronised with the device for its own log line.
"""

import time

from transformers import TrainerCallback

from hugcoder import hardware


class Throughput(TrainerCallback):
    """Args: tokens_per_step over all devices, padding included. flops_per_token: see `hardware`."""

    def __init__(self, tokens_per_step: int, flops_per_token: float, num_devices: int):
        self.tokens_per_step = tokens_per_step
        self.flops_per_token = flops_per_token
        self.num_devices = num_devices
        self._since = time.perf_counter()
        self._paused = 0.0
        self._pause_began = 0.0
        self._last_step = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._restart(state.global_step)

    def _restart(self, step: int) -> None:
        self._since, self._paused, self._last_step = time.perf_counter(), 0.0, step

    def pause(self) -> None:
        """Stop the clock, for evaluation and saving."""
        self._pause_began = time.perf_counter()

    def go_on(self) -> None:
        """Start the clock again."""
        self._paused += time.perf_counter() - self._pause_began

    def read(self, step: int) -> dict[str, float]:
        """Metrics of the steps since the last reading; none when there were no steps."""
        num_steps = step - self._last_step
        seconds = time.perf_counter() - self._since - self._paused
        self._restart(step)
        if num_steps <= 0 or seconds <= 0:
            return {}
        rate = num_steps * self.tokens_per_step / seconds
        metrics = {
            "tokens_per_second": rate,
            "tokens_per_second_per_device": rate / self.num_devices,
            "memory_gib": hardware.peak_memory_bytes() / 2**30,
        }
        if peak := hardware.peak_flops():
            metrics["mfu"] = rate / self.num_devices * self.flops_per_token / peak
        return metrics
