"""Which number format the convolutions are computed in: bf16 autocast where the hardware multiplies in it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn


def resolve_precision(wanted: str, device: torch.device) -> str:
    """ "auto" to "bf16" or "fp32" for a device; the others stay as they are."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # Emulated bf16 is slower than fp32, so only processors with bf16 instructions count.
    return "bf16" if {"avx512_bf16", "amx_bf16"} & _cpu_flags() else "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The autocast context for a resolved precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def to_device(model: nn.Module, device: torch.device) -> None:
    """Move a model and lay its weights out as the convolutions want them (channels last)."""
    model.to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's annotations


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    return {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()}
