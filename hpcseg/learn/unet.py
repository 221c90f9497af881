"""The paper's U-Net (Ronneberger et al. 2015), padded so that the output has the input's height and width."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class DoubleConv(nn.Sequential):
    """Two 3 x 3 convolutions, each followed by batch normalisation (if wanted) and ReLU."""

    def __init__(self, inputs: int, outputs: int, *, batch_norm: bool) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            # A bias before batch normalisation would be subtracted again by it.
            layers.append(nn.Conv2d(channels, outputs, kernel_size=3, padding=1, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(outputs))
            layers.append(nn.ReLU())
        super().__init__(*layers)


class UpConv(nn.ConvTranspose2d):
    """2 x 2 up-convolution with stride 2, which doubles height and width.

    No two of its terms meet in one output pixel, so it is one matrix product over the pixels. Computed as that it takes
    a fraction of the time that the general kernel for transposed convolutions takes on a CPU.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=2, stride=2)

    def forward(self, features: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """(B, C, H, W) to (B, outputs, 2 H, 2 W), in channels-last layout; `output_size` is not used."""
        assert self.bias is not None
        batch, channels, height, width = features.shape
        # One row of the matrix per output channel of each of the 2 x 2 output pixels.
        weight = self.weight.permute(2, 3, 1, 0).reshape(-1, channels)
        pixels = functional.linear(features.permute(0, 2, 3, 1), weight, self.bias.repeat(4))
        pixels = pixels.view(batch, height, width, 2, 2, self.out_channels).permute(0, 1, 3, 2, 4, 5)
        return pixels.reshape(batch, 2 * height, 2 * width, self.out_channels).permute(0, 3, 1, 2)


class UNet(nn.Module):
    """Grey slices or tiles in, one score per class and pixel out.

    Args:
        classes: number of classes C.
        channels: slices that it takes for each that it labels.
        width: channels of the first block; the lowest has width x 2**depth (64 to 1024 in the paper).
        depth: how often the resolution is halved.
        batch_norm: batch normalisation after each 3 x 3 convolution.
    """

    def __init__(
        self, *, classes: int, channels: int = 1, width: int = 64, depth: int = 4, batch_norm: bool = True
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.depth = depth
        self.down = nn.ModuleList(
            DoubleConv(inputs, outputs, batch_norm=batch_norm)
            for inputs, outputs in zip([channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(UpConv(2 * outputs, outputs) for outputs in reversed(widths[:-1]))
        self.merge = nn.ModuleList(
            DoubleConv(2 * outputs, outputs, batch_norm=batch_norm) for outputs in reversed(widths[:-1])
        )
        self.head = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) normalised grey values to (B, C, H, W) scores, for any H and W."""
        height, width = images.shape[-2:]
        multiple = 2**self.depth
        bottom, right = -height % multiple, -width % multiple
        if bottom or right:
            images = functional.pad(images, (0, right, 0, bottom), mode="replicate")
        features = images
        skips: list[torch.Tensor] = []
        for level, block in enumerate(self.down):
            if level:
                features = functional.max_pool2d(features, 2)
            features = block(features)
            skips.append(features)
        skips.pop()
        for grow, merge in zip(self.up, self.merge, strict=True):
            features = merge(torch.cat([skips.pop(), grow(features)], dim=1))
        scores: torch.Tensor = self.head(features)
        return scores[..., :height, :width]


def build_unet(*, classes: int, channels: int = 1, width: int, depth: int, batch_norm: bool, seed: int) -> UNet:
    """A U-Net with the initial weights of `seed`, on the CPU; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(classes=classes, channels=channels, width=width, depth=depth, batch_norm=batch_norm)
