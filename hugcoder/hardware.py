"""What the hardware can do: peak rates, memory in use, and the formula of model FLOPs.

Holds the figures that throughput and MFU are computed from; nothing here chooses a device.
"""

import resource

import torch

from hugcoder.refusal import Refusal

# Dense bf16 peak in FLOP/s by a part of the device's name. Sources: NVIDIA data sheets, figures
# without sparsity.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}


def check_device(name: str) -> None:
    """Raises: Refusal when torch cannot compute on a device of this name here."""
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Refusal(
            f"device {name} cannot be used here ({reason}); leave it out for the accelerator if "
            "there is one, or give cpu."
        ) from None


def device_name() -> str:
    """Name of the training device, as its maker calls it."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def peak_flops() -> float | None:
    """Dense bf16 peak of one device in FLOP/s; None when it is not known, and MFU is then not
    given."""
    name = device_name()
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def peak_memory_bytes() -> int:
    """Most memory held so far: allocated on the GPU, else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def flops_per_token(
    num_parameters: int, num_layers: int, attention_width: int, row_length: int
) -> float:
    """FLOPs of forward and backward for one token: 6 N + 6 L A S.

    6 FLOPs a parameter that multiplies (N counts the output head, not the input embedding), and
    12 L A S for attention over S tokens, halved because it is causal; L layers, A = heads x head
    size. Packed documents attend to less than the whole row, so this is an upper bound of the
    useful work. llm-foundry and torchtitan do not halve: their MFU is higher for the same speed.
    """
    return 6.0 * num_parameters + 6.0 * num_layers * attention_width * row_length
