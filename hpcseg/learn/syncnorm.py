"""Batch normalisation over the global batch on CPU ranks, where torch's own SyncBatchNorm does not run.

Statistics and their gradients are those of the whole batch, also where ranks hold parts of different size, so that
training does not depend on the number of ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from hpcseg.learn.ranks import Ranks


def synchronise(model: nn.Module, ranks: Ranks) -> nn.Module:
    """Replace every batch normalisation by one over all ranks; weights are kept."""
    if ranks.device.type == "cuda":
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return synchronised
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CpuSyncBatchNorm
            assert isinstance(module, CpuSyncBatchNorm)
            module.ranks = ranks
    return model


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose training statistics are those of the batches of all ranks together."""

    ranks: Ranks

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same shape and dtype; B may differ between ranks and be 0."""
        if not self.training:
            return super().forward(features)
        mean, variance, pixels = _global_statistics(features, self.ranks)
        with torch.no_grad():
            momentum = self.momentum
            assert self.running_mean is not None and self.running_var is not None and momentum is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (pixels / (pixels - 1)), momentum)
        arguments = (features, self.weight, self.bias, mean, variance, pixels, self.eps, self.ranks)
        normalised: torch.Tensor = _Normalise.apply(*arguments)  # type: ignore[no-untyped-call]
        return normalised


def _global_statistics(features: torch.Tensor, ranks: Ranks) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Mean and biased variance per channel, (C,) float32 each, and the number of pixels, over all ranks."""
    channels, pixels = features.shape[1], features.numel() // features.shape[1]
    own = torch.zeros(3, channels, dtype=torch.float64)
    if pixels:
        # The kernel of torch's own batch normalisation: one pass, in float32 also over bf16. With float32 running
        # statistics its answers are float32, and with momentum 0 it leaves those alone.
        untouched = torch.zeros(channels), torch.zeros(channels)
        mean, variance = torch.ops.aten.batch_norm_update_stats(features.detach(), *untouched, 0.0)
        own = torch.stack([torch.full_like(mean, pixels), mean, variance]).double()
    counts, means, variances = ranks.gather(own).unbind(1)
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
        ranks: Ranks,
    ) -> torch.Tensor:
        ctx.save_for_backward(features, weight, mean, variance)
        ctx.pixels, ctx.eps, ctx.ranks = pixels, eps, ranks
        return functional.batch_norm(features, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        features, weight, mean, variance = ctx.saved_tensors
        gradient = gradients[0]
        weight_gradient, bias_gradient = torch.zeros_like(weight), torch.zeros_like(weight)
        if features.numel():
            # This rank's sums of gradient x normalised features, and of gradient: one pass that writes nothing.
            _, weight_gradient, bias_gradient = torch.ops.aten.native_batch_norm_backward(
                gradient, features, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
            )
        sums = ctx.ranks.gather(torch.stack([bias_gradient, weight_gradient]).double()).sum(0)
        of_gradient, of_product = (sums / ctx.pixels).float()
        # weight / deviation x (gradient - mean gradient - normalised features x mean product): for each channel a line
        # through the gradient, which the forward kernel draws in one pass, and a multiple of the features, added into a
        # new tensor, since torch's kernels take twice the time over bf16 in place. The multiple is rounded first, so
        # that the line takes away just what it leaves in the mean.
        inverse = torch.rsqrt(variance + ctx.eps)
        scale = weight * inverse
        multiple = (-scale * inverse * of_product).to(features.dtype)
        shift = -scale * of_gradient - multiple * mean
        line = functional.batch_norm(
            gradient, torch.zeros_like(mean), torch.ones_like(mean), scale, shift, training=False, eps=0.0
        )
        batch, channels, height, width = features.shape
        rows = torch.addcmul(_as_rows(line), _as_rows(features), multiple.repeat(width))
        towards_features = rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return towards_features, weight_gradient, bias_gradient, None, None, None, None, None


def _as_rows(features: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) as (B, H, W x C): without a copy where channels come last, and long enough for vector arithmetic."""
    return features.permute(0, 2, 3, 1).flatten(2)
