"""Makes Muon for the matrices with AdamW for the rest.

The Trainer makes AdamW alone, and every other optimizer that transformers knows by name.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import _muon
from transformers import PreTrainedModel

from hugcoder import hardware


def hidden_matrices(model: PreTrainedModel) -> list[nn.Parameter]:
    """List the weights for Muon: 2-D, inside the layers, without embedding and output head."""
    outside = {
        id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()
    }
    head = model.get_output_embeddings()
    outside |= {id(p) for p in head.parameters()} if head is not None else set()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [p for p in trained if p.ndim == 2 and id(p) not in outside]


class MuonWithAdamW(torch.optim.Optimizer):
    """Runs Muon on the matrices inside the layers and AdamW on the rest, as one optimizer.

    Muon (Jordan 2024, torch.optim.Muon) orthogonalizes the update of a matrix. The two optimizers
    share their parameter groups with this one, so schedules, clipping and checkpoints see a single
    optimizer.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW):
        self.parts = (muon, adamw)
        groups = [group for part in self.parts for group in part.param_groups]
        super().__init__(groups, defaults={})
        self._share()

    def _share(self) -> None:
        """Give the parts the groups and the state of this optimizer itself, not copies."""
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
    """Split a model's parameters between Muon and AdamW; AdamW's part does not decay."""
    if not torch.accelerator.is_available() and not hardware.processor_has_bf16():
        _muon._zeropower_via_newtonschulz = orthogonalized_in_float32
    matrices = hidden_matrices(model)
    taken = {id(parameter) for parameter in matrices}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    muon = torch.optim.Muon(matrices, lr=muon_learning_rate, weight_decay=muon_weight_decay)
    adamw = torch.optim.AdamW(
        others, lr=learning_rate, betas=betas, eps=epsilon, weight_decay=0.0, fused=True
    )
    return MuonWithAdamW(muon, adamw)


def orthogonalized_in_float32(
    grad: torch.Tensor, coefficients: tuple[float, float, float], num_steps: int, epsilon: float
) -> torch.Tensor:
    """Run Muon's quintic iteration (Jordan 2024) in float32; torch always takes bf16.

    A processor that emulates bf16 needs 40 times as long as in float32: ten seconds for a step of
    the quickstart.
    """
    a, b, c = coefficients
    is_tall = grad.shape[0] > grad.shape[1]
    x = grad.float().T if is_tall else grad.float()
    x = x / x.norm().clamp(min=epsilon)
    for _ in range(num_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if is_tall else x
