"""Decides which updates are dropped: those with a gradient norm that is not finite, or a spike.

The rule for spikes is that of OLMo-core's SkipStepOptimizer (rolling_interval_length 128,
sigma_factor 6; github.com/allenai/OLMo-core), for the norm alone, with one difference: a rejected
norm enters the history as the bound that it broke. With its own value, one huge norm would blind
the guard for 128 steps; left out, a lasting rise of the norm would never be accepted.

The caller gives a norm that is the same on every rank, and drops a rejected update:
`guard_optimizer` here, and `hugcoder.engines.zero` at the step of ZeRO's engines.
"""

import functools
import math
import statistics
from collections import deque
from typing import Any

from accelerate.optimizer import AcceleratedOptimizer

WINDOW = 128  # steps for the mean and the deviation
ENOUGH = WINDOW // 2  # norms that are needed to recognise a spike


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
        self.bound: float | None = None  # for that norm; None = only infinity is rejected
        self.was_skipped = self.has_judged = False
        self._norms: deque[float] = deque(maxlen=WINDOW)
        self._skipped: deque[bool] = deque(maxlen=WINDOW)

    def rejects(self, norm: float) -> bool:
        """Tell whether to skip the update whose gradient has this norm before clipping."""
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
        """Tell whether more of the last steps were skipped than max_skipped allows."""
        return self.num_skipped_lately > self.max_skipped

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs to judge like the unbroken run."""
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
    """Keep accelerate's optimizer from a step whose gradient the guard has rejected.

    The step then looks like one that a loss scaler skipped: weights, moments and step counts stay
    as they are, and the schedule waits. The fp16 scaler is told of each step, because it has
    unscaled the gradients and waits for the end of the step. Its own skips have an infinite norm.
    """
    step = optimizer.step

    @functools.wraps(step)  # the schedule has marked the step and looks for its mark
    def guarded_step(closure=None) -> None:
        optimizer._is_overflow = guard.was_skipped  # accelerate clears it only for a scaler
        if not guard.was_skipped:
            step(closure)
        elif optimizer.scaler is not None:
            optimizer.scaler.update()

    optimizer.step = guarded_step
