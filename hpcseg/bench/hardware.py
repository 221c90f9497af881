"""How fast the hardware multiplies, and how many multiplications a network asks of it."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from hpcseg.bench.measure import Rates, rate, take_turns
from hpcseg.bench.training import synchronise

MATRIX, CONVOLUTION = "matrix product", "3x3 convolution"


def count_operations(model: nn.Module, size: int) -> tuple[int, int]:
    """Floating-point operations of the matrix products and convolutions for one tile: of an evaluation, of a step.

    A multiplication and the addition after it count as two. Batch normalisation, ReLU, pooling and the optimizer do
    not count, so a share of the peak that is computed from this is a lower bound.

    Args:
        model: any network of one grey value per pixel whose output is a tensor; it is left as it is.
        size: edge of a tile in pixels.
    """
    twin, tile = copy.deepcopy(model).to("meta"), torch.empty(1, 1, size, size, device="meta")
    with FlopCounterMode(display=False) as forward:
        scores = twin(tile)
    with FlopCounterMode(display=False) as backward:
        torch.autograd.backward(scores.sum())
    evaluation = forward.get_total_flops()
    return evaluation, evaluation + backward.get_total_flops()


def measure_peak(device: torch.device, precision: str, *, seconds: float, rounds: int) -> Rates:
    """Floating-point operations per second of a large `MATRIX` product and of a 3 x 3 `CONVOLUTION`, in turns."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    on_gpu = device.type == "cuda"
    edge, batch = (8192, 256) if on_gpu else (2048, 16)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        # Not zeros, on which some hardware is faster.
        return torch.randn(*shape, generator=generator).to(device, dtype)

    left, right = random(edge, edge), random(edge, edge)
    channels, pixels = 128, 64
    images = random(batch, channels, pixels, pixels).contiguous(memory_format=torch.channels_last)
    weight = random(channels, channels, 3, 3).contiguous(memory_format=torch.channels_last)

    def multiply(times: int) -> None:
        for _ in range(times):
            torch.mm(left, right)
        synchronise(device)

    def convolve(times: int) -> None:
        for _ in range(times):
            functional.conv2d(images, weight, padding=1)
        synchronise(device)

    with torch.inference_mode():
        return take_turns(
            {
                MATRIX: lambda times: rate(times * 2 * edge**3, lambda: multiply(times)),
                CONVOLUTION: lambda times: rate(
                    times * 2 * batch * (channels * pixels) ** 2 * 9, lambda: convolve(times)
                ),
            },
            seconds=seconds,
            rounds=rounds,
        )
