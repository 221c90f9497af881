"""What the network says about a slice: the same for tiles as for the whole, for any size, averaged as it is told."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import tifffile
import torch

from hpcseg.errors import HpcsegError
from hpcseg.segment import network as networks
from hpcseg.segment.network import Network, Wishes

CPU = torch.device("cpu")
ALL = {"probabilities": True, "uncertainty": True, "float16": True}


@pytest.fixture(scope="module")
def image(tiny_folder):
    """An odd part of a slice, as a network takes it."""
    return (tifffile.imread(tiny_folder / "data" / "sample0004.tiff")[:101, 20:103] / 65535).astype(np.float32)


def answer(models, image, **wishes):
    network = Network(models, Wishes(**wishes), CPU)
    return network.answer(image, network.tile_edge(*image.shape))


def plain(model, image):
    """Probabilities of the model as it was trained, of a slice and four mirrored pixels around it."""
    padded = np.pad(image, 4, mode="reflect")
    assert not any(length % 4 for length in padded.shape) and min(padded.shape) >= 64
    with torch.inference_mode():
        return (
            copy.deepcopy(model.network)
            .eval()(torch.from_numpy(padded)[None, None])[0]
            .softmax(0)
            .numpy()[:, 4:-4, 4:-4]
        )


def test_the_answer_is_the_trained_models(models, image):
    even = np.ascontiguousarray(image[:64, :80])
    found = answer(models[:1], even, **ALL)
    expected = plain(models[0], even)
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-3)  # float16
    np.testing.assert_array_equal(found.classes, expected.argmax(0))
    assert len(np.unique(found.classes)) >= 2
    entropy = -(expected * np.log(expected.clip(1e-12))).sum(0) / np.log(3)
    np.testing.assert_allclose(found.uncertainty, entropy, atol=2e-3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 83), (3, 5), (63, 64), (65, 64), (101, 83), (64, 7)])
def test_slices_of_any_size_get_as_many_labels(models, image, shape):
    found = answer(models[:1], np.ascontiguousarray(image[: shape[0], : shape[1]]))
    assert found.classes.shape == shape and found.classes.dtype == np.uint8
    assert found.probabilities is found.uncertainty is found.spread is None


def test_what_lies_below_and_right_changes_little(models, image):
    """The part above and to the left of the cut, further away than mirrored pixels reach, is exactly the same."""
    whole, part = answer(models[:1], image, **ALL), answer(models[:1], np.ascontiguousarray(image[:70, :70]), **ALL)
    from hpcseg.segment.geometry import reach

    same = 70 - reach(2)
    assert same > 30
    np.testing.assert_allclose(part.probabilities[:, :same, :same], whole.probabilities[:, :same, :same], atol=1e-3)
    assert (part.classes == whole.classes[:70, :70]).mean() > 0.97


@pytest.mark.parametrize(("tile", "agreement"), [(32, 0.95), (48, 0.97), (64, 0.97), (88, 0.99), (5000, 1.0)])
def test_tiles_are_blended_to_nearly_the_whole(models, image, tile, agreement):
    whole, tiled = answer(models[:1], image, **ALL), answer(models[:1], image, tile=tile, **ALL)
    assert (whole.classes == tiled.classes).mean() >= agreement
    np.testing.assert_allclose(tiled.probabilities.astype(float).sum(0), 1, atol=5e-3)
    difference = np.abs(whole.probabilities.astype(float) - tiled.probabilities)
    assert difference.mean() < 0.02
    # No seam: neighbouring pixels differ as much as in the whole.
    jumps = [np.abs(np.diff(one.probabilities.astype(float), axis=1)).max() for one in (whole, tiled)]
    assert jumps[1] < 1.2 * jumps[0] + 0.02


def test_slices_that_do_not_fit_are_tiled_unasked(models, image, monkeypatch):
    network = Network(models[:1], Wishes(**ALL), CPU)
    per_pixel, sums = network._bytes_per_pixel, 4 * 3 * 4 * 112 * 92
    whole = network.answer(image, None)
    assert network.tile_edge(*image.shape) is None
    monkeypatch.setattr(networks, "free_bytes", lambda device: 2 * (per_pixel * 64 * 64 + sums))
    network = Network(models[:1], Wishes(**ALL), CPU)
    assert network.tile_edge(*image.shape) == 64
    assert (network.answer(image, 64).classes == whole.classes).mean() > 0.97


def test_an_ensemble_is_the_mean_and_its_spread_the_deviation(models, image):
    even = np.ascontiguousarray(image[:64, :64])
    found = answer(models, even, spread=True, **ALL)
    each = np.stack([plain(model, even) for model in models])
    np.testing.assert_allclose(found.probabilities, each.mean(0), atol=2e-3)
    np.testing.assert_array_equal(found.classes, each.mean(0).argmax(0))
    chosen = np.take_along_axis(each.std(0), found.classes[None].astype(int), 0)[0]
    np.testing.assert_allclose(found.spread, chosen, atol=2e-3)
    assert found.spread.max() > 0.01


def test_flips_are_averaged_and_symmetric(models, image):
    even = np.ascontiguousarray(image[:64, :64])
    found = answer(models[:1], even, flips=True, **ALL)
    each = [plain(models[0], even), plain(models[0], even[::-1].copy())[:, ::-1]]
    each += [
        plain(models[0], even[:, ::-1].copy())[..., ::-1],
        plain(models[0], even[::-1, ::-1].copy())[:, ::-1, ::-1],
    ]
    np.testing.assert_allclose(found.probabilities, np.mean(each, 0), atol=2e-3)
    mirrored = answer(models[:1], np.ascontiguousarray(even[:, ::-1]), flips=True, **ALL)
    np.testing.assert_allclose(mirrored.probabilities[..., ::-1], found.probabilities, atol=2e-3)


def test_values_as_bytes_are_255_times_the_values(models, image):
    half = answer(models, image, spread=True, **ALL)
    byte = answer(models, image, spread=True, **{**ALL, "float16": False})
    for name in ("probabilities", "uncertainty", "spread"):
        one, other = getattr(half, name), getattr(byte, name)
        assert (one.dtype, other.dtype) == (np.float16, np.uint8)
        np.testing.assert_allclose(other / 255, one.astype(float), atol=0.5 / 255 + 1e-3)


def test_a_slice_that_does_not_fit_after_all_is_told_with_the_way_out(models, image, monkeypatch):
    network = Network(models[:1], Wishes(), CPU)

    def fails(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(networks, "scores_of", fails)
    with pytest.raises(HpcsegError, match=r"101 x 83 pixels does not fit .* --tile 64"):
        network.answer(image, None)


@pytest.mark.parametrize("wishes", [{}, {"probabilities": True}, {"uncertainty": True}])
def test_labels_do_not_depend_on_what_else_is_asked(models, image, wishes, monkeypatch):
    """Two scores of float32 that differ may have equal probabilities, and then another class would come first."""
    network = Network(models[:1], Wishes(**wishes), CPU)
    scores = torch.tensor([0.001, 0.00100001, -100.0])
    monkeypatch.setattr(networks, "scores_of", lambda *_: scores[None, :, None, None].expand(1, 3, 112, 92))
    assert scores[0] < scores[1] and scores.softmax(0)[0] == scores.softmax(0)[1]
    assert (network.answer(image, None).classes == 1).all()


def test_each_model_of_an_ensemble_computes_in_its_own_precision(models, image):
    half = dataclasses.replace(models[1], precision="bf16")
    mixed = answer([models[0], half], image, **ALL).probabilities.astype(float)
    alone = [answer([model], image, **ALL).probabilities.astype(float) for model in (models[0], models[1], half)]
    assert np.abs(alone[1] - alone[2]).max() > 1e-3, "it makes a difference"
    np.testing.assert_allclose(mixed, (alone[0] + alone[2]) / 2, atol=1e-3)  # three times rounded to float16
