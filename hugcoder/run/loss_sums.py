"""Sums of the loss, by kind of token where a run has kinds, of which the logged losses are made.

The Trainer's own sum keeps a NaN for ever; these leave a skipped step out. A step's sums stay on
the device until it ends and are then read together with the gradient's norm, over all ranks, in
one small transfer. From there on they are Python floats, whose 53 bits hold thousands of float32
sums: what they round lies far behind the six digits that are logged, so that neither the order of
the ranks nor a restart changes these.
"""

import math
from collections.abc import Callable
from typing import Any

import torch


class LossSums:
    """Sums in nats and counts of predicted tokens: of the step, since the log line, of the call.

    Args: names: of the kinds that are logged apart.
    """

    def __init__(self, device: torch.device, num_kinds: int, names: dict[int, str] | None = None):
        self.num_kinds, self.names = num_kinds, names or {}
        self._step = torch.zeros(2, num_kinds, device=device)
        self._window, self._call = self._zeros(), self._zeros()

    def _zeros(self) -> list[float]:
        return [0.0] * 2 * self.num_kinds

    def add(self, sums: torch.Tensor, counts: torch.Tensor) -> None:
        """Add a micro-batch of this rank: [kinds] each."""
        self._step += torch.stack([sums.detach(), counts])

    def end_step(
        self, norm: torch.Tensor, gather: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[float, list[float]]:
        """The highest norm and the sums of the step over all ranks; begins the next step.

        The step's only read by the host, in the precision of the norm if that is higher. A norm
        that is NaN on any rank is NaN.
        """
        own = torch.cat([norm.to(self._step.device).reshape(1), self._step.flatten()])
        self._step.zero_()
        ranks = gather(own).reshape(-1, len(own)).tolist()
        norms, *sums = zip(*ranks, strict=True)
        highest = math.nan if any(map(math.isnan, norms)) else max(norms)
        return highest, [sum(column) for column in sums]

    def keep(self, step: list[float]) -> None:
        """Count a step that was not skipped."""
        for total in (self._window, self._call):
            total[:] = [a + b for a, b in zip(total, step, strict=True)]

    def read_window(self) -> dict[str, float]:
        """Mean losses since the last reading; none where there is nothing to take a mean of."""
        window, self._window = self._window, self._zeros()
        sums, counts = window[: self.num_kinds], window[self.num_kinds :]
        if not sum(counts):
            return {}
        means = {"loss": sum(sums) / sum(counts)}
        of_kinds = {name: sums[k] / counts[k] for k, name in self.names.items() if counts[k]}
        return means | of_kinds

    def mean_of_call(self) -> float:
        """Mean loss of the steps since the program was started, 0 where there were none."""
        sums, counts = self._call[: self.num_kinds], self._call[self.num_kinds :]
        return sum(sums) / max(sum(counts), 1.0)

    def state(self) -> dict[str, Any]:
        """The open window, so that the first line after a restart is that of the unbroken run."""
        return {"window": list(self._window)}

    def load_state(self, state: dict[str, Any]) -> None:
        self._window = list(state["window"])
