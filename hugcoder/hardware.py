"""What the hardware can do: precisions, peak rates, memory in use, and the formula of model FLOPs.

The one place that asks which precision a device or a processor has, and the figures that
throughput and MFU are computed from; nothing here chooses a device.
"""

import os
import platform
import resource
import shutil
from typing import Literal

import torch

from hugcoder.refusal import Refusal

SHARED_MEMORY = "/dev/shm"

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


def can_train_in(precision: Literal["fp16", "bf16"], on_cpu: bool, is_deepspeed: bool) -> bool:
    """Whether the training device takes a precision; the question that the engine itself asks.

    DeepSpeed trains in fp16 on processors that have it, accelerate only on GPUs; both train in
    bf16 on every processor, which emulates what it lacks.
    """
    if is_deepspeed:
        from deepspeed.accelerator import get_accelerator

        device = get_accelerator()
        has = device.is_fp16_supported if precision == "fp16" else device.is_bf16_supported
        return bool(has())  # its answer for a processor without fp16 is None
    if on_cpu:
        return precision == "bf16"
    from transformers.utils import is_torch_bf16_gpu_available

    return precision == "fp16" or is_torch_bf16_gpu_available()


def processor_has_fp16() -> bool:
    """Whether this processor computes in fp16; without, DeepSpeed takes it for no type of a CPU."""
    return torch.ops.mkldnn._is_mkldnn_fp16_supported()


def processor_has_bf16() -> bool:
    """Whether this processor has instructions for bf16.

    Emulated, matrices take as long as in float32 at best, and 40 times as long below AVX-512. What
    ONEDNN_MAX_CPU_ISA forbids is not there; oneDNN alone would take any AVX-512 for bf16.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    known = torch.cpu.get_capabilities()
    return known["avx512_bf16"] or known["amx_bf16"]


def shared_memory_free() -> int | None:
    """Bytes free in /dev/shm, where data workers hand over rows; None where there is none."""
    return shutil.disk_usage(SHARED_MEMORY).free if os.path.isdir(SHARED_MEMORY) else None


def missing_compiler() -> str:
    """The C++ compiler that torch.compile calls on a CPU where it is not there; "" where it is."""
    compiler = os.environ.get("CXX", "g++")
    return "" if shutil.which(compiler) else compiler


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


def busy_seconds() -> float:
    """Seconds that the cores of this machine were at work since it started, summed over them; what
    the host of a virtual machine took away counts too.
    """
    import psutil

    times = psutil.cpu_times()
    return sum(times[:8]) - times.idle - getattr(times, "iowait", 0.0)


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
