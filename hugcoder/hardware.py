"""Tells what the hardware can do: precisions, peak rates, memory in use, FLOPs of a model.

This is the only place that asks which precisions a device or a processor has. It also holds the
figures for throughput and MFU. It does not choose a device.
"""

import os
import platform
import resource
import shutil
from typing import Literal

import torch

from hugcoder.refusal import Refusal

SHARED_MEMORY = "/dev/shm"

# Part of the device's name -> dense bf16 peak in FLOP/s. Sources: NVIDIA data sheets, figures
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
    """Check that torch can compute on a device. Raises: Refusal when it cannot."""
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Refusal(
            f"device {name} cannot be used here ({reason}); leave it out for the accelerator if "
            "there is one, or give cpu."
        ) from None


def device_name() -> str:
    """Return the maker's name of the training device."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def can_train_in(precision: Literal["fp16", "bf16"], on_cpu: bool, is_deepspeed: bool) -> bool:
    """Tell whether the training device takes a precision, by the engine's own test.

    DeepSpeed trains in fp16 on GPUs and on processors that have fp16, accelerate only on GPUs. Both
    train in bf16 on every processor; one without bf16 emulates it.
    """
    if is_deepspeed:
        from deepspeed.accelerator import get_accelerator

        device = get_accelerator()
        has = device.is_fp16_supported if precision == "fp16" else device.is_bf16_supported
        return bool(has())  # None for a processor without fp16
    if on_cpu:
        return precision == "bf16"
    from transformers.utils import is_torch_bf16_gpu_available

    return precision == "fp16" or is_torch_bf16_gpu_available()


def processor_has_bf16() -> bool:
    """Tell whether this processor has instructions for bf16.

    Emulated bf16 is at best as fast as float32, and 40 times as slow without AVX-512. Instructions
    that ONEDNN_MAX_CPU_ISA forbids do not count. torch's own list is asked too, because oneDNN
    counts any AVX-512 as bf16.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    known = torch.cpu.get_capabilities()
    return known["avx512_bf16"] or known["amx_bf16"]


def shared_memory_free() -> int | None:
    """Return the bytes free in /dev/shm, where data workers hand over rows; None without it."""
    return shutil.disk_usage(SHARED_MEMORY).free if os.path.isdir(SHARED_MEMORY) else None


def missing_compiler() -> str:
    """Return the C++ compiler that torch.compile needs on a CPU if it is missing, else ""."""
    compiler = os.environ.get("CXX", "g++")
    return "" if shutil.which(compiler) else compiler


def peak_flops() -> float | None:
    """Return the dense bf16 peak of one device in FLOP/s; None = not known, so no MFU."""
    name = device_name()
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def peak_memory_bytes() -> int:
    """Return the peak memory so far: allocated on the GPU, else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def busy_seconds() -> float:
    """Return the busy seconds of all cores since the machine started, summed.

    Time that the host took from a virtual machine counts as busy.
    """
    import psutil

    times = psutil.cpu_times()
    return sum(times[:8]) - times.idle - getattr(times, "iowait", 0.0)


def flops_per_token(
    num_parameters: int, num_layers: int, attention_width: int, row_length: int
) -> float:
    """Compute the FLOPs of forward and backward for one token: 6 N + 6 L A S.

    6 FLOPs for each of N parameters that multiply (with the output head, without the input
    embedding), and 12 L A S for attention over S tokens, halved because it is causal; L layers,
    A = heads x head size. Packed documents attend to less than the whole row, so this is an upper
    bound of the useful work. llm-foundry and torchtitan do not halve: their MFU is higher for the
    same speed.
    """
    return 6.0 * num_parameters + 6.0 * num_layers * attention_width * row_length
