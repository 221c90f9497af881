from __future__ import annotations

import pytest
import torch
from torch import nn

from hpcseg.learn.unet import UpConv, build_unet


def unet(**settings):
    return build_unet(**{"classes": 3, "width": 4, "depth": 2, "batch_norm": True, "seed": 0, **settings})


@pytest.mark.parametrize("size", [(16, 16), (17, 30), (1, 1), (501, 5)])
def test_scores_have_the_height_and_width_of_any_image(size):
    assert unet()(torch.rand(2, 1, *size)).shape == (2, 3, *size)


def test_the_papers_network_has_31_million_weights_and_64_to_1024_channels():
    model = unet(width=64, depth=4)
    # Ronneberger's U-Net with one input channel and C = 3 classes, counted by hand: two 3x3 convolutions per block
    # without bias plus two batch normalisations, 2x2 up-convolutions with bias, and a 1x1 head.
    channels = [64, 128, 256, 512, 1024]
    blocks = sum(9 * (i * o + o * o) + 4 * o for i, o in zip([1, *channels], channels, strict=False))
    merges = sum(9 * (2 * o * o + o * o) + 4 * o for o in channels[:-1])
    ups = sum(4 * 2 * o * o + o for o in channels[:-1])
    assert sum(p.numel() for p in model.parameters()) == blocks + merges + ups + 3 * 64 + 3
    assert 31.0e6 < blocks + merges + ups < 31.1e6


def test_batch_norm_can_be_left_out_and_convolutions_get_a_bias_instead():
    model = unet(batch_norm=False)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert all(module.bias is not None for module in model.modules() if isinstance(module, nn.Conv2d))


def test_initial_weights_depend_on_the_seed_alone_and_leave_the_global_generator_alone():
    torch.manual_seed(1)
    first = torch.rand(1)
    torch.manual_seed(1)
    one = unet(seed=7).state_dict()
    assert torch.equal(torch.rand(1), first)
    again, other = unet(seed=7).state_dict(), unet(seed=8).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_a_padded_image_scores_as_it_does_alone_where_it_is_not_near_the_edge():
    model = unet(batch_norm=False).eval()
    image = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        whole, cut = model(image), model(image[..., :61, :63])
    # Depth 2 with 3x3 convolutions sees at most 22 pixels to each side; beyond that the padding is out of sight.
    torch.testing.assert_close(cut[..., :36, :36], whole[..., :36, :36], rtol=1e-4, atol=1e-5)


def test_the_up_convolution_is_torchs_transposed_convolution_and_has_its_gradients():
    ours = UpConv(6, 3)
    theirs = nn.ConvTranspose2d(6, 3, kernel_size=2, stride=2)
    theirs.load_state_dict(ours.state_dict())
    features = torch.randn(2, 6, 5, 4)
    inputs = [features.clone().requires_grad_() for _ in range(2)]
    outputs = [module(part) for module, part in zip((ours, theirs), inputs, strict=True)]
    torch.testing.assert_close(*outputs)
    towards = torch.randn_like(outputs[0])
    for output in outputs:
        output.backward(towards)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
