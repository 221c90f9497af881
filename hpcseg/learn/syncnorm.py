"""Batch normalisation over the global batch on CPU ranks, where torch's own SyncBatchNorm does not run.

Statistics and their gradients are those of the whole batch, also where ranks hold parts of different size, so that
training does not depend on the number of ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

_PIXELS = (0, 2, 3)


def synchronise(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch normalisation by one over all ranks of the default process group; weights are kept."""
    if device.type == "cuda":
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return synchronised
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CpuSyncBatchNorm
    return model


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose training statistics are those of the batches of all ranks together."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same shape and dtype; B may differ between ranks and be 0."""
        if not self.training:
            return super().forward(features)
        mean, variance, pixels = _global_statistics(features)
        with torch.no_grad():
            momentum = self.momentum
            assert self.running_mean is not None and self.running_var is not None and momentum is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (pixels / (pixels - 1)), momentum)
        arguments = (features, self.weight, self.bias, mean, variance, pixels, self.eps)
        normalised: torch.Tensor = _Normalise.apply(*arguments)  # type: ignore[no-untyped-call]
        return normalised


def _global_statistics(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Mean and biased variance per channel, (C,) float32 each, and the number of pixels, over all ranks."""
    channels, pixels = features.shape[1], features.numel() // features.shape[1]
    own = torch.zeros(3, channels, dtype=torch.float64)
    if pixels:
        variance, mean = torch.var_mean(features.detach().float(), dim=_PIXELS, correction=0)
        own = torch.stack([torch.full_like(mean, pixels), mean, variance]).double()
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    counts, means, variances = torch.stack(every).unbind(1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    # Chan et al. 1979: squared deviations of parts add up with those of the parts' means.
    variance = (counts * (variances + (means - mean) ** 2)).sum(0) / total
    return mean.float(), variance.float(), float(total[0])


class _Normalise(torch.autograd.Function):
    """Normalisation with given statistics of the global batch, whose backward pass knows that they depend on it."""

    @staticmethod
    def forward(
        ctx: Any,
        features: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
        pixels: float,
        eps: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(features, weight, mean, torch.rsqrt(variance + eps))
        ctx.pixels = pixels
        return functional.batch_norm(features, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        features, weight, mean, inverse = ctx.saved_tensors
        gradient = gradients[0].float()
        shape = (1, -1, 1, 1)
        normalised = (features.float() - mean.view(shape)) * inverse.view(shape)
        sums = torch.stack([gradient.sum(_PIXELS), (gradient * normalised).sum(_PIXELS)])
        bias_gradient, weight_gradient = sums.clone()
        dist.all_reduce(sums)
        sums /= ctx.pixels
        towards_features = gradient - sums[0].view(shape) - normalised * sums[1].view(shape)
        towards_features *= (weight * inverse).view(shape)
        return towards_features.to(features.dtype), weight_gradient, bias_gradient, None, None, None, None
