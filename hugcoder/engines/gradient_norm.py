"""Computes the norm of gradients on a CPU in float64, whole or sharded, and clips by it.

torch's float32 norm on a CPU adds one number after another: it is 3e-4 too small for 4M numbers,
8e-4 for 16M, and less for a shard of them, so clipping would give each engine other weights. This
one is right to about 1e-15, whatever the shards. GPUs add in a tree and keep torch's norm.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Partial, Replicate

CHUNK = 2**20  # numbers that are copied to float64 at a time, 8 MiB


def gradients_on_cpu(parameters: Iterable[nn.Parameter]) -> list[torch.Tensor]:
    """Return the gradients, sharded ones included, if all lie on a CPU; else an empty list."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return gradients if all(grad.device.type == "cpu" for grad in gradients) else []


@torch.no_grad()
def total_norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """Compute the norm of all gradients as one vector; a collective if they are sharded."""
    whole, sharded = torch.zeros((), dtype=torch.float64), {}
    for grad in gradients:
        if isinstance(grad, DTensor):
            # replicated parts count once, sharded parts are added up
            places = tuple(Replicate() if p.is_replicate() else Partial() for p in grad.placements)
            key = grad.device_mesh, places
            sharded[key] = sharded.get(key, 0.0) + sum_of_squares(grad.to_local())
        else:
            whole += sum_of_squares(grad)
    for (mesh, places), squares in sharded.items():
        # the mesh of offloaded shards lies on the GPU, and so does their sum
        whole += DTensor.from_local(squares, mesh, places).full_tensor().to(whole.device)
    return whole.sqrt()


@torch.no_grad()
def clip(gradients: list[torch.Tensor], max_norm: float) -> torch.Tensor:
    """Scale gradients with a larger norm down to `max_norm`; return the norm before that."""
    norm = total_norm(gradients)
    factor = max_norm / (norm.item() + 1e-6)  # as torch does
    if factor < 1:
        for grad in gradients:
            local = grad.to_local() if isinstance(grad, DTensor) else grad
            local.mul_(factor)
    return norm


def sum_of_squares(tensor: torch.Tensor) -> torch.Tensor:
    """Add up the squares of one tensor in float64; torch.sum adds pairwise."""
    chunks = tensor.detach().reshape(-1).split(CHUNK)
    return torch.stack([chunk.double().square_().sum() for chunk in chunks]).sum()
