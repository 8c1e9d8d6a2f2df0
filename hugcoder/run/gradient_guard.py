"""Decides which updates are dropped: gradients that are no numbers, and spikes of their norm.

The rule for spikes is that of OLMo-core's SkipStepOptimizer (rolling_interval_length 128,
sigma_factor 6; github.com/allenai/OLMo-core), for the norm alone, and with one difference: a
rejected norm enters the history as the bound it broke. As it is, one huge norm would blind the
guard for 128 steps; left out, a lasting rise of the norm would never be accepted.

Whoever asks gives a norm that is the same on every rank, and drops the update when told so:
`guard_optimizer` here, and `hugcoder.engines.zero` at the step of ZeRO's engines.
"""

import functools
import math
import statistics
from collections import deque
from typing import Any

from accelerate.optimizer import AcceleratedOptimizer

WINDOW = 128  # steps that mean and deviation are taken over
ENOUGH = WINDOW // 2  # norms before a spike can be told


class GradientGuard:
    """Judges the norm of each step's gradient.

    Args:
        sigmas: standard deviations above the mean at which a norm is a spike; 0 = only norms that
            are not finite are rejected.
        max_skipped: steps of the last 128 that may be rejected.
    """

    def __init__(self, sigmas: float, max_skipped: int):
        self.sigmas, self.max_skipped = sigmas, max_skipped
        self.num_skipped = 0
        self.norm: float | None = None  # of the last step judged
        self.bound: float | None = None  # it was held against; None = only against infinity
        self.was_skipped = self.has_judged = False
        self._norms: deque[float] = deque(maxlen=WINDOW)
        self._skipped: deque[bool] = deque(maxlen=WINDOW)

    def rejects(self, norm: float) -> bool:
        """Whether to skip the update whose gradient has this norm, before clipping."""
        self.norm, self.bound, self.has_judged = norm, self._spike_bound(), True
        highest = math.inf if self.bound is None else self.bound
        is_finite = math.isfinite(norm)
        self.was_skipped = not is_finite or norm > highest
        if is_finite:
            self._norms.append(min(norm, highest))
        self._skipped.append(self.was_skipped)
        self.num_skipped += self.was_skipped
        return self.was_skipped

    def _spike_bound(self) -> float | None:
        if not self.sigmas or len(self._norms) < ENOUGH:
            return None
        return statistics.fmean(self._norms) + self.sigmas * statistics.stdev(self._norms)

    @property
    def num_skipped_lately(self) -> int:
        return sum(self._skipped)

    @property
    def is_exhausted(self) -> bool:
        """Whether more steps were skipped lately than a healthy run may skip."""
        return self.num_skipped_lately > self.max_skipped

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to judge as the unbroken one."""
        return {
            "num_skipped": self.num_skipped,
            "norms": list(self._norms),
            "skipped": [int(was_skipped) for was_skipped in self._skipped],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.num_skipped = state["num_skipped"]
        self._norms = deque(state["norms"], maxlen=WINDOW)
        self._skipped = deque(map(bool, state["skipped"]), maxlen=WINDOW)


def guard_optimizer(optimizer: AcceleratedOptimizer, guard: GradientGuard) -> None:
    """Let accelerate's optimizer make no step whose gradient the guard has rejected.

    To everyone else it is a step that a loss scaler skipped: weights, moments and step counts stay
    as they are and the schedule waits. The scaler of fp16 learns of each step, for it has unscaled
    the gradients and waits for the end of the step; its own skips come with an infinite norm.
    """
    step = optimizer.step

    @functools.wraps(step)  # the schedule looks for the mark that it left on the step
    def guarded_step(closure=None) -> None:
        optimizer._is_overflow = guard.was_skipped  # accelerate clears it only for a scaler
        if not guard.was_skipped:
            step(closure)
        elif optimizer.scaler is not None:
            optimizer.scaler.update()

    optimizer.step = guarded_step
