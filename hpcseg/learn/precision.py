"""Which number format the convolutions are computed in, and what else decides their bits.

fp32    as it says, also in convolutions
tf32    fp32 whose products are rounded to 10 bits: GPUs from Ampere on
bf16    autocast; emulated where the hardware does not multiply in it
fp16    autocast, with a loss that is scaled so that small gradients do not vanish
auto    bf16 where the hardware multiplies in it; else fp16 on a GPU, fp32 on a CPU
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import nn

from hpcseg.errors import HpcsegError
from hpcseg.learn.ranks import Ranks

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
# From the one that needs most of the hardware to the one that needs least.
_RESOLVED = ("bf16", "tf32", "fp16", "fp32")
_AMPERE = (8, 0)


def resolve_precision(wanted: str, device: torch.device) -> str:
    """ "auto" to "bf16", "fp16" or "fp32" for a device; the others stay as they are."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    # Emulated bf16 is slower than fp32, so only processors with bf16 instructions count.
    return "bf16" if {"avx512_bf16", "amx_bf16"} & _cpu_flags() else "fp32"


def agree_on_precision(wanted: str, ranks: Ranks) -> str:
    """`resolve_precision` of all ranks together: what "auto" is on the one that can do least."""
    return _RESOLVED[ranks.largest(_RESOLVED.index(resolve_precision(wanted, ranks.device)))]


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A block in which a device computes in a resolved precision, and what torch keeps for the whole process with it.

    Raises:
        HpcsegError: the device does not compute in it, and it is not emulated there either.
    """
    if precision == "tf32" and not (device.type == "cuda" and torch.cuda.get_device_capability(device) >= _AMPERE):
        raise HpcsegError(
            f"The precision is tf32, in which {_name(device)} does not compute. Use a GPU of the Ampere generation or "
            "newer (--constraint, --partition), or take fp32: train.precision of a cell, --precision of a prediction."
        )
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    # cuDNN may choose kernels that add up in an order of their own each time, and by how fast they were once.
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return torch.autocast(device.type, _AUTOCAST.get(precision, torch.bfloat16), enabled=precision in _AUTOCAST)


def loss_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss in fp16, by a factor that is part of a training's state; in other precisions it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def to_device(model: nn.Module, device: torch.device) -> None:
    """Move a model and lay its weights out as the convolutions want them (channels last)."""
    model.to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's annotations


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"


@functools.cache
def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    return {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()}
