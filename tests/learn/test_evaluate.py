"""The sweep's shortcuts (batch normalisation folded in, noise added on the device) change no more than rounding."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from pretend_gpu import CUDA, pretend_gpu
from torch import nn
from torch.nn import functional

from hpcseg.config import DataConfig, NoiseLevel
from hpcseg.data import batches, noise, noisy_tiles, tile_sets
from hpcseg.data.classes import IGNORED
from hpcseg.learn.evaluate import count_confusion, validate
from hpcseg.learn.folding import Folding, folded
from hpcseg.learn.precision import to_device
from hpcseg.learn.ranks import Ranks
from hpcseg.learn.unet import UNet, build_unet
from hpcseg.segment.sweep import Sweep

CPU = torch.device("cpu")
ALONE = Ranks()
SIGMAS = (0.0, 3_000.0, 20_000.0)
LEVELS = tuple(NoiseLevel(sigma) for sigma in SIGMAS)


@pytest.fixture(scope="module")
def source(tiny_dataset):
    return batches.open_source(tiny_dataset, DataConfig(tiles="2x2", tile_size=64))


@pytest.fixture(scope="module")
def model(source) -> UNet:
    """A network whose batch normalisations have seen data, and scores that are no longer all alike."""
    model = build_unet(classes=3, width=8, depth=2, batch_norm=True, seed=0)
    to_device(model, CPU)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    counts, labels, _ = source.read(np.arange(16))
    images = torch.from_numpy(counts.astype(np.float32) / 65535).unsqueeze(1)
    for _ in range(40):
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(model(images), torch.from_numpy(labels).long()))
        optimizer.step()
    return model


def test_confusion_counts_true_rows_and_predicted_columns():
    labels, predicted = torch.tensor([[0, 0, 1], [2, 2, 2]]), torch.tensor([[0, 1, 1], [2, 0, 0]])
    assert count_confusion(labels, predicted, 3).tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 1]]


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (32, 16, 16), (501, 77), (2, 100, 3)])
@pytest.mark.parametrize("classes", [2, 3, 40])
def test_every_labelled_pixel_is_counted_once_in_slices_of_any_shape_on_a_cpu_and_a_gpu(shape, classes):
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(classes, size=(2, *shape))
    for values in (labels, predicted):
        values[rng.random(shape) < 0.1] = IGNORED
    known = (labels != IGNORED) & (predicted != IGNORED)
    expected = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(expected, (labels[known], predicted[known]), 1)
    here = torch.from_numpy(labels), torch.from_numpy(predicted)
    np.testing.assert_array_equal(count_confusion(*here, classes).numpy(), expected)
    with pretend_gpu() as gpu:
        there = [values.to(CUDA) for values in here]
        waits = sum(gpu.waits.values())
        found = count_confusion(*there, classes)
        assert sum(gpu.waits.values()) == waits
        np.testing.assert_array_equal(found.cpu().numpy(), expected)


class OurNorm(nn.BatchNorm2d):
    """A subclass, as a norm that the ranks share is one."""


def with_subclass(model: UNet) -> nn.Module:
    """A copy whose batch normalisations are of another class, with the same numbers."""
    other = copy.deepcopy(model)
    for module in other.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = OurNorm
    return other


@pytest.mark.parametrize("converted", [nn.SyncBatchNorm.convert_sync_batchnorm, with_subclass])
def test_synchronised_norms_are_folded_to_the_same_bits(model, converted):
    other = converted(copy.deepcopy(model))
    assert {type(m) for m in other.modules()} & {nn.SyncBatchNorm, OurNorm}
    found, expected = folded(other), folded(model)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in found.modules())
    images = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(found(images), expected(images))


def test_a_folded_network_scores_as_the_whole_one_and_leaves_it_alone(model):
    before = copy.deepcopy(model.state_dict())
    lean, images = folded(model), torch.rand(2, 1, 64, 64)
    assert model.training and not lean.training
    assert not any("BatchNorm" in type(module).__name__ for module in lean.modules())
    with torch.inference_mode():
        whole = copy.deepcopy(model).eval()(images)
        # Ten layers, each with a rounding of 2**-24 of sums of some hundred terms.
        torch.testing.assert_close(lean(images), whole, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_lean_copy_follows_its_model_to_the_bit_in_the_same_tensors(batch_norm):
    model = build_unet(classes=3, width=4, depth=2, batch_norm=batch_norm, seed=0)
    to_device(model, CPU)
    folding = Folding(model)
    where = [tensor.data_ptr() for tensor in folding.lean.parameters()]
    images, first = torch.rand(3, 1, 32, 32), [tensor.clone() for tensor in folding.lean.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model(images)[:, 0].square().mean().backward()
        optimizer.step()
        folding.refresh()
        followed, anew = list(folding.lean.parameters()), list(folded(model).parameters())
        assert all(torch.equal(one, other) for one, other in zip(followed, anew, strict=True))
        assert [tensor.stride() for tensor in followed] == [tensor.stride() for tensor in anew]
    assert [tensor.data_ptr() for tensor in followed] == where
    assert not any(torch.equal(one, other) for one, other in zip(followed, first, strict=True))


def test_a_network_without_batch_normalisation_is_left_as_it_is():
    model = build_unet(classes=3, width=4, depth=1, batch_norm=False, seed=0)
    images = torch.rand(1, 1, 16, 16)
    assert torch.equal(folded(model)(images), model(images))


def plain_sweep(model: UNet, source: batches.TileSource) -> np.ndarray:
    """One noise level after the other, tile by tile, with numpy's noise and numpy's counting."""
    counts, labels, keys = source.read(source.split.test)
    unit = noise.test_noise(keys, size=64, seed=0)
    matrices = np.zeros((len(SIGMAS), 3, 3), dtype=np.int64)
    whole = copy.deepcopy(model).eval()
    for index, sigma in enumerate(SIGMAS):
        for image, drawn, label in zip(counts, unit, labels, strict=True):
            noisy = torch.from_numpy(((image + sigma * drawn) / 65535).astype(np.float32))
            with torch.inference_mode():
                predicted = whole(noisy[None, None]).argmax(1)[0].numpy()
            np.add.at(matrices[index], (label, predicted), 1)
    return matrices


def test_a_sweep_counts_what_the_plain_way_counts_in_any_order(model, source):
    tiles = noisy_tiles.noisy_set(source, source.split.test, levels=(), seed=0, device=CPU)
    whole, halves = (Sweep(model, tiles, LEVELS, classes=3, precision="fp32") for _ in range(2))
    assert len(whole) == len(SIGMAS) * -(-len(tiles) // batches.EVALUATION_CHUNK)
    for piece in range(len(whole)):
        whole.count(piece)
    for piece in [*range(1, len(halves), 2), *range(0, len(halves), 2)]:
        halves.count(piece)
    assert torch.equal(whole.confusion, halves.confusion) and torch.equal(whole.right, halves.right)
    for counts in ("by_band", "interfaces", "label_interfaces"):
        assert torch.equal(getattr(whole, counts), getattr(halves, counts)) and getattr(whole, counts).any()
    found, expected = whole.confusion.numpy(), plain_sweep(model, source)
    assert whole.right.sum() == np.trace(found, axis1=1, axis2=2).sum()
    assert found.sum() == expected.sum() == len(source.split.test) * 64 * 64 * len(SIGMAS)
    # Rounding may turn a pixel whose two best scores are equal to six digits.
    assert np.abs(found - expected).sum() <= 2 * 1e-4 * expected.sum()
    assert len({tuple(matrix.ravel()) for matrix in found}) == 3, "the noise levels differ"


@pytest.mark.parametrize("size", [1, 4, 5, 32])
def test_batches_of_test_tiles_have_the_statistics_of_training_and_leave_none_behind(model, source, size):
    """As a model in training mode that is asked for one batch behind the other, the last one with what is left."""
    tiles = noisy_tiles.noisy_set(source, source.split.test, levels=(), seed=0, device=CPU)
    assert len(tiles) == 9
    levels = (*LEVELS, *(NoiseLevel(sigma, norm_tiles=size) for sigma in SIGMAS))
    before = copy.deepcopy(model.state_dict())
    sweep = Sweep(model, tiles, levels, classes=3, precision="fp32")
    for piece in reversed(range(len(sweep))):
        sweep.count(piece)
    expected = torch.zeros(3, 9, dtype=torch.int64)
    for index, sigma in enumerate(SIGMAS):
        for start in range(0, 9, size):
            rows = slice(start, start + size)
            images, labels = tiles.take(rows, NoiseLevel(sigma))
            with torch.no_grad():
                predicted = copy.deepcopy(model).train()(images).argmax(1)
            expected[index, rows] = (predicted == labels).sum((1, 2))
    # Rounding may turn a pixel whose two best scores are equal to six digits.
    assert (sweep.right[3:] - expected).abs().sum() <= 1e-4 * 3 * 9 * 64 * 64
    assert sweep.confusion.sum((1, 2)).tolist() == [9 * 64 * 64] * 6
    assert not torch.equal(sweep.right[3:], sweep.right[:3])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    alone = Sweep(model, tiles, LEVELS, classes=3, precision="fp32")
    for piece in range(len(alone)):
        alone.count(piece)
    assert torch.equal(alone.right, sweep.right[:3]), "the other levels are what they are without"


def test_validation_is_the_mean_loss_per_pixel_and_leaves_the_model_in_training(model, source):
    counts, labels, _ = source.read(source.split.validation)
    images = torch.from_numpy(counts.astype(np.float32) / 65535).unsqueeze(1)
    tiles = tile_sets.TileSet(images, torch.from_numpy(labels))
    loss, confusion = validate(folded(model), tiles, classes=3, precision="fp32", ranks=ALONE)
    assert model.training
    with torch.inference_mode():
        scores = copy.deepcopy(model).eval()(images)
        expected = functional.cross_entropy(scores, tiles.labels.long())
    assert loss == pytest.approx(float(expected), rel=1e-4)
    assert confusion.sum() == labels.size
    assert np.trace(confusion) == pytest.approx(int((scores.argmax(1) == tiles.labels).sum()), abs=1e-4 * labels.size)
