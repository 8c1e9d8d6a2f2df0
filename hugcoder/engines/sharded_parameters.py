"""Counts and writes parameters that FSDP2 or ZeRO-3 shards as if they were whole.

Works for unsharded parameters too. `hugcoder.model.random_init` makes initial values.
"""

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.integrations import is_deepspeed_zero3_enabled

# torch.compile and activation checkpointing put these into the names of modules.
WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")


def own_name(name: str) -> str:
    """Return a parameter's name in the model as built, without the names of wrappers."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    """Return the shape of the whole parameter; under ZeRO-3 the parameter itself is empty."""
    return parameter.ds_shape if is_deepspeed_zero3_enabled() else parameter.shape


@torch.no_grad()
def write_whole(parameter: torch.Tensor, value: torch.Tensor) -> None:
    """Write a whole tensor into a parameter or buffer; each rank writes its shard.

    Every rank calls it with the same value, in the same order: ZeRO-3 gathers the parameter and
    takes the value of rank 0. FSDP2 needs no communication.
    """
    if isinstance(parameter, DTensor):
        part = distribute_tensor(
            value, parameter.device_mesh, parameter.placements, src_data_rank=None
        )
        parameter.to_local().copy_(part.to_local())
    elif isinstance(parameter, nn.Parameter) and is_deepspeed_zero3_enabled():
        import deepspeed

        with deepspeed.zero.GatheredParameters(parameter, modifier_rank=0):
            parameter.copy_(value)
    else:
        parameter.copy_(value)


@torch.no_grad()
def are_zero(parameters: list[nn.Parameter]) -> list[bool]:
    """Tell which parameters are zero everywhere, on every rank; a collective under sharding."""
    if not parameters:
        return []
    parts = [local_part(parameter) for parameter in parameters]
    holds = torch.stack([part.any() for part in parts]).to(torch.uint8)
    if torch.distributed.is_initialized():
        holds = holds.to(_device_of_collectives())
        torch.distributed.all_reduce(holds, torch.distributed.ReduceOp.MAX)
    return [not any_rank for any_rank in holds.tolist()]


def local_part(parameter: nn.Parameter) -> torch.Tensor:
    """Return the part of a parameter that this rank holds."""
    if isinstance(parameter, DTensor):
        return parameter.detach().to_local()
    return _zero_part(parameter) if is_deepspeed_zero3_enabled() else parameter.detach()


def _zero_part(parameter: nn.Parameter) -> torch.Tensor:
    """Return a rank's part without the padding after the last part, which is never written."""
    part, rank = parameter.ds_tensor, torch.distributed.get_rank()
    left = parameter.ds_numel - rank * part.numel()
    return part[: max(0, min(part.numel(), left))]


def _device_of_collectives() -> torch.device:
    """Return the device of the backend's tensors: for nccl the GPU, even with offloaded shards."""
    if torch.distributed.get_backend() == "gloo":
        return torch.device("cpu")
    return torch.accelerator.current_accelerator()
