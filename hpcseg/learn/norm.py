"""Batch normalisation over the global batch, on every kind of device.

Statistics and their gradients are those of the whole batch, also where ranks hold parts of different size or none, so
that training does not depend on the number of ranks. torch's own runs on GPUs alone, waits for them in every forward
pass, and sends another dtype from a rank without tiles.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

# torch 2.13 has a new name, and warns of the old one.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def synchronise(model: nn.Module) -> None:
    """Turn every batch normalisation of a model into one over all ranks; weights are kept."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm


class SyncBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose training statistics are those of the batches of all ranks together."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same shape and dtype; B may differ between ranks and be 0."""
        if not self.training:
            return super().forward(features)
        mean, variance, pixels = _global_statistics(features.detach())
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (pixels / (pixels - 1).clamp_min(1)), self.momentum)
        arguments = (features, self.weight, self.bias, mean, variance, pixels, self.eps)
        normalised: torch.Tensor = _Normalise.apply(*arguments)  # type: ignore[no-untyped-call]
        return normalised


def _global_statistics(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and biased variance per channel, and the number of pixels, over all ranks: (C,) float32 each."""
    channels, pixels = features.shape[1], features.numel() // features.shape[1]
    own = torch.zeros(3, channels, device=features.device)
    if pixels:
        # The kernel of torch's own batch normalisation: one pass, in float32 also over bf16 and fp16. Its answers are
        # of the dtype of the running statistics, which momentum 0 leaves alone.
        unused = torch.zeros(2, channels, device=features.device)
        mean, variance = torch.ops.aten.batch_norm_update_stats(features, unused[0], unused[1], 0.0)
        own = torch.stack([torch.full_like(mean, pixels), mean, variance])
    every = own.new_empty(3 * dist.get_world_size(), channels)
    _all_gather(every, own)
    counts, means, variances = every.view(-1, 3, channels).unbind(1)
    total = counts.sum(0)
    weights = counts / total
    mean = (weights * means).sum(0)
    # Chan et al. 1979: squared deviations of parts add up with those of the parts' means.
    return mean, (weights * (variances + (means - mean) ** 2)).sum(0), total


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
        pixels: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(features, weight, mean, variance, pixels)
        ctx.eps = eps
        return functional.batch_norm(features, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        features, weight, mean, variance, pixels = ctx.saved_tensors
        (gradient,) = gradients
        weight_gradient, bias_gradient = torch.zeros_like(weight), torch.zeros_like(weight)
        if features.numel():
            # This rank's sums of gradient x normalised features, and of gradient: one pass that writes nothing.
            _, weight_gradient, bias_gradient = torch.ops.aten.native_batch_norm_backward(
                gradient, features, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
            )
        sums = torch.stack([bias_gradient, weight_gradient])
        dist.all_reduce(sums)
        of_gradient, of_product = sums / pixels
        # weight / deviation x (gradient - mean gradient - normalised features x mean product): for each channel a line
        # through the gradient, which the forward kernel draws in one pass, plus a multiple of the features. The
        # multiple is rounded first, so that the line takes away just what it leaves in the mean.
        inverse = torch.rsqrt(variance + ctx.eps)
        scale = weight * inverse
        multiple = (-scale * inverse * of_product).to(features.dtype)
        shift = -scale * of_gradient - multiple * mean
        one = torch.ones_like(mean) - ctx.eps  # to which the kernel adds eps
        line = functional.batch_norm(gradient, torch.zeros_like(mean), one, scale, shift, training=False, eps=ctx.eps)
        towards_features = torch.addcmul(line, features, multiple.view(1, -1, 1, 1))
        return towards_features, weight_gradient, bias_gradient, None, None, None, None
