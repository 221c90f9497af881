"""segmentation_models_pytorch's U-Net in the tuned loop.

Its encoders have widths of their own, so only the decoder can be as wide as ours. ResNet-18 is the smallest of the
family that its page begins with; not pretrained, since ours is not.
"""

from __future__ import annotations

import torch
from segmentation_models_pytorch import Unet

from contenders import tuned
from contenders.work import Loop, Work
from hpcseg.data.batches import TileSource


def training(source: TileSource, work: Work, device: torch.device) -> Loop:
    """The contender."""
    network = Unet(
        "resnet18",
        encoder_weights=None,
        in_channels=1,
        classes=source.classes,
        decoder_channels=[work.width * 2**level for level in (4, 3, 2, 1, 0)],
    )
    return tuned.training(source, work, device, network)
