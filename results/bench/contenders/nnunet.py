"""nnU-Net's network and training step, without its planning, augmentation and sliding windows.

Written from its description (Isensee et al., Nature Methods 18, 203 (2021), with its supplement, and the defaults that
its documentation names): PlainConvUNet with instance normalisation and leaky ReLU, deep supervision, Dice +
cross-entropy, SGD with Nesterov momentum of 0.99, a learning rate that falls as a polynomial, gradients clipped at a
norm of 12; mixed precision and torch.compile on a GPU, fp32 on a CPU. The tiles come from the tuned loop's loader.
"""

from __future__ import annotations

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from contenders.nnunet_loss import deeply_supervised
from contenders.tuned import compiled, loaders
from contenders.work import Loop, Work, autocast
from hpcseg.data.batches import TileSource

_STAGES = 5
_LEARNING_RATE, _MOMENTUM, _WEIGHT_DECAY, _POWER, _LARGEST_NORM = 1e-2, 0.99, 3e-5, 0.9, 12


class Network(nn.Module):
    """Scores at every resolution while it trains, the highest first; only these when it is used."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.unet = PlainConvUNet(
            input_channels=1,
            n_stages=_STAGES,
            features_per_stage=[width * 2**stage for stage in range(_STAGES)],
            conv_op=nn.Conv2d,
            kernel_sizes=3,
            strides=[1] + [2] * (_STAGES - 1),
            n_conv_per_stage=2,
            num_classes=classes,
            n_conv_per_stage_decoder=2,
            conv_bias=True,
            norm_op=nn.InstanceNorm2d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=True,
        )
        self.unet.apply(self.unet.initialize)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor] | torch.Tensor:
        """(B, 1, H, W) to scores (B, C, H, W), and those of H / 2, H / 4, ... behind them."""
        self.unet.decoder.deep_supervision = self.training
        return self.unet(images)


def training(source: TileSource, work: Work, device: torch.device) -> Loop:
    """The contender."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    network = Network(source.classes, work.width).to(device)
    forward = compiled(network, device)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=_LEARNING_RATE, momentum=_MOMENTUM, nesterov=True, weight_decay=_WEIGHT_DECAY
    )
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, dtype):
            loss = deeply_supervised(forward(images), labels)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_NORM)
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    def begin_epoch(epoch: int, epochs: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * (1 - epoch / epochs) ** _POWER

    load = loaders(source, work, device)
    return Loop(source, work, network, forward, step, load, dtype=dtype, begin_epoch=begin_epoch)
