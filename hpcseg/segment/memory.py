"""How much memory a network may still take, and how much of it one takes per pixel of a slice."""

from __future__ import annotations

import torch

from hpcseg.memory import free_host_bytes

# Values that a pass holds at its fullest, per pixel and channel of the first block (measured on a CPU: 3.9 to 4.8 on
# 1024 x 1024 pixels and more), and besides them per class.
_VALUES_PER_CHANNEL = 6
_FLOATS_PER_CLASS = 8


def bytes_per_pixel(*, width: int, classes: int, precision: str) -> float:
    """What a pass through a U-Net takes per pixel, of `width` channels in its first block."""
    size = 2 if precision in ("bf16", "fp16") else 4
    return _VALUES_PER_CHANNEL * width * size + _FLOATS_PER_CLASS * classes * 4


def free_bytes(device: torch.device) -> float:
    """Memory that this process may still take: of its GPU, or of the host and of its control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return free_host_bytes()
