"""The loops that ours is measured against do the same work, or the comparison would be none."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import tifffile
import torch

from hpcseg.bench.plain import PlainTraining, TilesOnDisk, plain_evaluation, plain_pack
from hpcseg.bench.training import network, plain_network, settings
from hpcseg.config import DataConfig, NoiseLevel
from hpcseg.data import batches, noisy_tiles
from hpcseg.data.pack import pack
from hpcseg.segment.sweep import Sweep
from hpcseg.slices.opening import open_source

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(bench_dataset):
    return batches.open_source(bench_dataset, DataConfig(tiles="large"))


def test_its_tiles_are_ours(source):
    rows = source.split.train[:5]
    ours, labels, _ = source.read(rows)
    disk = TilesOnDisk(source, rows, sigma=0, fixed=True)
    for index in range(len(disk)):
        image, label = disk[index]
        assert np.array_equal(image[0], ours[index] / np.float32(65_535))
        assert np.array_equal(label, labels[index])


def test_its_network_computes_what_ours_does(source):
    config = settings(4, 2)
    images = torch.rand(2, 1, 128, 128)
    ours, plain = network(source, config).eval(), plain_network(source, config).eval()
    torch.testing.assert_close(plain(images), ours(images), rtol=1e-3, atol=1e-4)


def test_its_evaluation_has_our_accuracy(source):
    config = settings(4, 2)
    tiles = noisy_tiles.noisy_set(source, source.split.test, levels=(), seed=0, device=CPU)
    sweep = Sweep(network(source, config), tiles, (NoiseLevel(0.0),), classes=source.classes, precision="fp32")
    for piece in range(len(sweep)):
        sweep.count(piece)
    counts = sweep.confusion[0].numpy()
    disk = TilesOnDisk(source, source.split.test, sigma=0, fixed=True)
    accuracy = plain_evaluation(plain_network(source, config), disk, batch_size=4, device=CPU)
    assert accuracy == pytest.approx(np.trace(counts) / np.sum(counts), abs=1e-3)


def test_its_training_learns(source):
    torch.manual_seed(0)
    disk = TilesOnDisk(source, source.split.train[:8], sigma=0, fixed=False)
    training = PlainTraining(plain_network(source, settings(4, 4)), disk, batch_size=4, device=CPU)
    before = training.steps(2)
    training.steps(20)
    assert training.steps(2) < 0.8 * before


def test_its_pack_writes_the_pixels_that_ours_does(tmp_path, tiny_folder):
    for name in ("data", "labels"):
        source = open_source(tiny_folder / name)
        pages = np.stack([source.read(index) for index in range(len(source))])
        tifffile.imwrite(tmp_path / f"{name}.tif", pages, photometric="minisblack")
    stacks = tmp_path / "data.tif", tmp_path / "labels.tif"
    pack(*stacks, tmp_path / "ours.h5", command="test")
    plain_pack(*stacks, tmp_path / "plain.h5")
    with h5py.File(tmp_path / "ours.h5") as ours, h5py.File(tmp_path / "plain.h5") as plain:
        for name in ("slices", "labels"):
            assert np.array_equal(ours[name][:], plain[name][:])
