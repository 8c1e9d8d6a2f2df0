"""Optimizers: which weights decay, and Muon for the matrices with AdamW for the rest.

AdamW itself, and every other optimizer that transformers knows by name, comes from the Trainer.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def hidden_matrices(model: PreTrainedModel) -> list[nn.Parameter]:
    """What Muon takes: the 2-D weights inside the layers, no embedding and no output head."""
    outside = {
        id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()
    }
    head = model.get_output_embeddings()
    outside |= {id(p) for p in head.parameters()} if head is not None else set()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [p for p in trained if p.ndim == 2 and id(p) not in outside]


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon on the matrices inside the layers and AdamW on everything else, as one optimizer.

    Muon (Jordan 2024, torch.optim.Muon) orthogonalizes the update of a matrix. The two optimizers
    share their parameter groups with this one, so that schedules, clipping and checkpoints see a
    single optimizer.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW):
        self.parts = (muon, adamw)
        groups = [group for part in self.parts for group in part.param_groups]
        super().__init__(groups, defaults={})
        self._share()

    def _share(self) -> None:
        """Give the parts the group dicts and the state of this optimizer, not copies of them."""
        num_muon_groups = len(self.parts[0].param_groups)
        self.parts[0].param_groups = self.param_groups[:num_muon_groups]
        self.parts[1].param_groups = self.param_groups[num_muon_groups:]
        for part in self.parts:
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        if closure is not None:
            raise RuntimeError("MuonWithAdamW takes no closure.")
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()


def make_muon(
    model: PreTrainedModel,
    *,
    muon_learning_rate: float,
    muon_weight_decay: float,
    learning_rate: float,
    betas: tuple[float, float],
    epsilon: float,
) -> MuonWithAdamW:
    """Split a model's parameters between Muon and AdamW; what AdamW takes here does not decay."""
    matrices = hidden_matrices(model)
    taken = {id(parameter) for parameter in matrices}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    muon = torch.optim.Muon(matrices, lr=muon_learning_rate, weight_decay=muon_weight_decay)
    adamw = torch.optim.AdamW(
        others, lr=learning_rate, betas=betas, eps=epsilon, weight_decay=0.0, fused=True
    )
    return MuonWithAdamW(muon, adamw)
