"""Measures tokens per second, MFU, memory and CPU share of the steps since the last log line.

Time in evaluation and saving does not count. Reads the clock only after the Trainer has
synchronised with the device for its own log line.
"""

import logging
import os
import time

import numpy as np
import torch
from transformers import TrainerCallback

from hugcoder import hardware

logger = logging.getLogger(__name__)

# A run whose threads get less than this share of a busy machine is warned of its neighbours
# (benchmarks/neighbours_cpu.md).
LEAST_CPU_SHARE = 0.7
FULL = 0.9  # share of all cores that are busy
WAITING = (
    ". Threads that wait for each other lose even more: OMP_WAIT_POLICY=PASSIVE in the "
    "environment reduces that"
)


class Clock:
    """Measures wall time, CPU time of this process and of all programs, without pauses."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        self._began, self._paused = self._now(), np.zeros(3)

    @staticmethod
    def _now() -> np.ndarray:
        return np.array([time.perf_counter(), time.process_time(), hardware.busy_seconds()])

    def pause(self) -> None:
        self._pause_began = self._now()

    def go_on(self) -> None:
        self._paused += self._now() - self._pause_began

    def read(self) -> tuple[float, float, float]:
        return tuple((self._now() - self._began - self._paused).tolist())


class Throughput(TrainerCallback):
    """Measures the throughput of a run.

    Args: tokens_per_step: over all devices, with padding. flops_per_token: see `hardware`.
    """

    def __init__(self, tokens_per_step: int, flops_per_token: float, num_devices: int):
        self.tokens_per_step = tokens_per_step
        self.flops_per_token = flops_per_token
        self.num_devices = num_devices
        self._clock = Clock()
        self._last_step = 0
        self._has_told_of_neighbours = False
        # evaluation and saving do not count
        self.pause, self.go_on = self._clock.pause, self._clock.go_on

    def on_train_begin(self, args, state, control, **kwargs):
        self._has_told_of_neighbours = not state.is_world_process_zero  # only one rank warns
        self._restart(state.global_step)

    def _restart(self, step: int) -> None:
        self._clock.restart()
        self._last_step = step

    def read(self, step: int) -> dict[str, float]:
        """Return metrics of the steps since the last reading; none without new steps."""
        num_steps = step - self._last_step
        seconds, own, busy = self._clock.read()
        self._restart(step)
        if num_steps <= 0 or seconds <= 0:
            return {}
        rate = num_steps * self.tokens_per_step / seconds
        metrics = {
            "tokens_per_second": rate,
            "tokens_per_second_per_device": rate / self.num_devices,
            "memory_gib": hardware.peak_memory_bytes() / 2**30,
        }
        if not torch.cuda.is_available():
            metrics["cpu_share"] = own / seconds / torch.get_num_threads()
            if metrics["cpu_share"] < LEAST_CPU_SHARE and busy > FULL * seconds * os.cpu_count():
                self._tell_of_neighbours(step, metrics["cpu_share"])
        if peak := hardware.peak_flops():
            metrics["mfu"] = rate / self.num_devices * self.flops_per_token / peak
        return metrics

    def _tell_of_neighbours(self, step: int, cpu_share: float) -> None:
        """Warn once that other programs slow the run down."""
        if self._has_told_of_neighbours:
            return
        self._has_told_of_neighbours = True
        is_passive = os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"
        logger.warning(
            "step %s: all cores are busy, and the %s thread(s) of this process got %.0f %% of the "
            "time they need; other programs or the machine's host take the rest (see `top`)%s",
            f"{step:,}",
            torch.get_num_threads(),
            cpu_share * 100,
            "" if is_passive or torch.get_num_threads() == 1 else WAITING,
        )
