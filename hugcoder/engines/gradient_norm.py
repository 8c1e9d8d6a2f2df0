"""The norm of gradients that lie on a CPU, in float64, and clipping by it, whole or sharded.

torch's float32 norm on a CPU adds one number after another: 3e-4 too small for 4M numbers, 8e-4 for
16M, and less for a shard of them, so that clipping would give every engine other weights. Here it
is right to 1e-15 or so, whatever the shards. On GPUs, which add in a tree, nothing is replaced.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Partial, Replicate

CHUNK = 2**20  # numbers that are copied to float64 at a time, 8 MiB


def gradients_on_cpu(parameters: Iterable[nn.Parameter]) -> list[torch.Tensor]:
    """The gradients, sharded ones included, if they lie on a CPU; else none."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return gradients if all(grad.device.type == "cpu" for grad in gradients) else []


@torch.no_grad()
def total_norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """The norm of all gradients as one vector; collective where they are sharded."""
    whole, sharded = torch.zeros((), dtype=torch.float64), {}
    for grad in gradients:
        if isinstance(grad, DTensor):
            # what every rank holds counts once, what they share is added up
            places = tuple(Replicate() if p.is_replicate() else Partial() for p in grad.placements)
            key = grad.device_mesh, places
            sharded[key] = sharded.get(key, 0.0) + sum_of_squares(grad.to_local())
        else:
            whole += sum_of_squares(grad)
    for (mesh, places), squares in sharded.items():
        # of offloaded shards the mesh lies on the GPU, and so does what it adds up
        whole += DTensor.from_local(squares, mesh, places).full_tensor().to(whole.device)
    return whole.sqrt()


@torch.no_grad()
def clip(gradients: list[torch.Tensor], max_norm: float) -> torch.Tensor:
    """Scale gradients with a larger norm down to `max_norm`; returns the norm before."""
    norm = total_norm(gradients)
    factor = max_norm / (norm.item() + 1e-6)  # as torch does
    if factor < 1:
        for grad in gradients:
            local = grad.to_local() if isinstance(grad, DTensor) else grad
            local.mul_(factor)
    return norm


def sum_of_squares(tensor: torch.Tensor) -> torch.Tensor:
    """The squares of one tensor, added up in float64; torch.sum adds pairwise."""
    chunks = tensor.detach().reshape(-1).split(CHUNK)
    return torch.stack([chunk.double().square_().sum() for chunk in chunks]).sum()
