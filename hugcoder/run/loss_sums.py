"""Sums up the loss for the log, by kind of token if a run has kinds.

The Trainer's own sum keeps a NaN for ever; these sums leave out skipped steps. A step's sums stay
on the device until it ends. Then they are read together with the gradient's norm, over all ranks,
in one small transfer. After that they are Python floats, whose 53 bits hold thousands of float32
sums: their rounding is far below the six digits that are logged, so neither the order of the ranks
nor a restart changes the log.
"""

import math
from collections.abc import Callable, Collection
from typing import Any

import torch


class LossSums:
    """Sums nats and counts predicted tokens: in the step, since the log line, in the call.

    Args:
        names: the kinds that are logged on their own.
        apart: kinds that are no part of the loss, as those of an auxiliary one.
    """

    def __init__(
        self,
        device: torch.device,
        num_kinds: int,
        names: dict[int, str] | None = None,
        apart: Collection[int] = (),
    ):
        self.num_kinds, self.names = num_kinds, names or {}
        self._in_loss = [kind for kind in range(num_kinds) if kind not in apart]
        self._step = torch.zeros(2, num_kinds, device=device)
        self._window, self._call = self._zeros(), self._zeros()

    def _zeros(self) -> list[float]:
        return [0.0] * 2 * self.num_kinds

    def add(self, sums: torch.Tensor, counts: torch.Tensor) -> None:
        """Add a micro-batch of this rank; both tensors are [kinds]."""
        self._step += torch.stack([sums.detach(), counts])

    def end_step(
        self, norm: torch.Tensor, gather: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[float, list[float]]:
        """Return the highest norm and the step's sums over all ranks, and begin the next step.

        This is the host's only read in a step, in the norm's precision if that is higher. If the
        norm is NaN on any rank, it is NaN.
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
        """Return the mean losses since the last reading; none when nothing was counted."""
        window, self._window = self._window, self._zeros()
        sums, counts = window[: self.num_kinds], window[self.num_kinds :]
        if not self._of_loss(counts):
            return {}
        means = {"loss": self._of_loss(sums) / self._of_loss(counts)}
        of_kinds = {name: sums[k] / counts[k] for k, name in self.names.items() if counts[k]}
        return means | of_kinds

    def mean_of_call(self) -> float:
        """Return the mean loss of the steps since the program started; 0 without steps."""
        sums, counts = self._call[: self.num_kinds], self._call[self.num_kinds :]
        return self._of_loss(sums) / max(self._of_loss(counts), 1.0)

    def _of_loss(self, by_kind: list[float]) -> float:
        return sum(by_kind[kind] for kind in self._in_loss)

    def state(self) -> dict[str, Any]:
        """Return the open window, so that a resumed run logs the same line as the unbroken run."""
        return {"window": list(self._window)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a window; a run that begins or ends to count the last kinds goes on as well."""
        window = state["window"]
        parts = window[: len(window) // 2], window[len(window) // 2 :]
        missing = [0.0] * self.num_kinds
        self._window = [value for part in parts for value in [*part, *missing][: self.num_kinds]]
