"""How much memory a network takes per pixel of a slice."""

from __future__ import annotations

# Values that a pass holds at its fullest, per pixel and channel of the first block (measured on a CPU: 3.9 to 4.8 on
# 1024 x 1024 pixels and more), and besides them per class.
_VALUES_PER_CHANNEL = 6
_FLOATS_PER_CLASS = 8


def bytes_per_pixel(*, width: int, classes: int, precision: str) -> float:
    """What a pass through a U-Net takes per pixel, of `width` channels in its first block."""
    size = 2 if precision in ("bf16", "fp16") else 4
    return _VALUES_PER_CHANNEL * width * size + _FLOATS_PER_CLASS * classes * 4
