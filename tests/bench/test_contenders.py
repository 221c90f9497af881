"""What stands beside hpcseg in results/bench/contenders does the same work, or the comparison would be none.

The command that measures them, and the tables of its record: test_gpu_kit.py, which runs it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch

from hpcseg.bench.training import network
from hpcseg.config import NoiseLevel
from hpcseg.data import noisy_tiles
from hpcseg.data.pack import pack
from hpcseg.errors import ConfigError
from hpcseg.segment.sweep import Sweep
from hpcseg.slices.opening import open_source

BENCH = Path(__file__).parents[2] / "results" / "bench"
sys.path.insert(0, str(BENCH))

from contenders import contender, nnunet_loss, plain, plain_pack, tuned, work  # noqa: E402

CPU = torch.device("cpu")
LOOPS = {"plain": plain, "tuned": tuned}


@pytest.fixture(scope="module")
def given(bench_dataset):
    return work.Work(str(bench_dataset), width=4, batch_size=4, tiles="small")


@pytest.fixture(scope="module")
def source(given):
    return given.source()


@pytest.mark.parametrize("tiles", [plain.TilesOnDisk, tuned.TilesInMemory])
def test_tiles_are_ours_with_noise_as_strong_as_asked_for(source, tiles):
    ours, labels, _ = source.read(source.split.test)
    for index, (image, label) in enumerate(tiles(source, "test", 0)[index] for index in range(len(ours))):
        assert np.array_equal(image[0], ours[index] / np.float32(65_535))
        assert np.array_equal(label, labels[index])
    noise = tiles(source, "test", 2_000)[0][0][0].numpy() * 65_535 - ours[0]
    # The standard error of a standard deviation of 16384 samples is 11 counts.
    assert noise.std() == pytest.approx(2_000, abs=4 * 11)


@pytest.mark.parametrize("tiles", [plain.TilesOnDisk, tuned.TilesInMemory])
def test_half_of_the_training_tiles_are_noisy_anew_each_time(given, source, tiles):
    drawn = tiles(source, "train", 10_000)
    clean = tiles(source, "train", 0)
    noisy = [[not torch.equal(drawn[index][0], clean[index][0]) for index in range(len(drawn))] for _ in range(12)]
    # Of more than a hundred draws.
    assert 0.3 < np.mean(noisy) < 0.7
    assert len(set(map(tuple, noisy))) > 1


def test_its_network_computes_what_ours_does(given, source):
    images = torch.rand(2, 1, 128, 128)
    ours, plainly = network(source, given.config).eval(), plain.plain_network(source, given.config).eval()
    torch.testing.assert_close(plainly(images), ours(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("loop", LOOPS)
def test_its_evaluation_has_our_accuracy(given, source, loop):
    tiles = noisy_tiles.noisy_set(source, source.split.test, levels=(), seed=0, device=CPU)
    sweep = Sweep(network(source, given.config), tiles, (NoiseLevel(0.0),), classes=source.classes, precision="fp32")
    for piece in range(len(sweep)):
        sweep.count(piece)
    counts = sweep.confusion[0].numpy()
    training = LOOPS[loop].training(source, given, CPU)
    assert training.accuracy(training.load("test", 0)) == pytest.approx(np.trace(counts) / np.sum(counts), abs=1e-3)


@pytest.mark.parametrize("loop", LOOPS)
def test_its_training_learns_from_every_tile_and_is_tested_at_every_sigma(given, source, loop):
    torch.manual_seed(0)
    training = LOOPS[loop].training(source, given, CPU)
    tiles, before = training.steps(len(training.loader))
    assert tiles == len(source.split.train)
    found = training.cell(6, (0.0, 5_000.0))
    assert training.steps(2)[1] < 0.8 * before
    assert len(found.validation) == 6 and len(found.test) == 2
    assert training.rate(1) > 0


def test_its_pack_writes_the_pixels_that_ours_does(tmp_path, tiny_folder):
    for name, stack in (("data", "images"), ("labels", "labels")):
        slices = open_source(tiny_folder / name)
        pages = np.stack([slices.read(index) for index in range(len(slices))])
        tifffile.imwrite(tmp_path / f"{stack}.tif", pages, photometric="minisblack")
    pack(tmp_path / "images.tif", tmp_path / "labels.tif", tmp_path / "ours.h5", command="test")
    with plain_pack.piece(str(tmp_path), source_bytes=1) as piece:
        piece(1)
    with h5py.File(tmp_path / "ours.h5") as ours, h5py.File(tmp_path / "plain.h5") as plainly:
        for name in ("slices", "labels"):
            assert np.array_equal(ours[name][:], plainly[name][:])


def test_the_loss_of_nnunet_is_what_it_is_by_hand():
    labels = torch.zeros(2, 8, 8, dtype=torch.int64)
    labels[:, :4, :4] = 1
    undecided = [torch.zeros(2, 2, edge, edge) for edge in (8, 4, 2)]
    # Half of 128 pixels are said to be of class 1, and 32 are: 2 x 16 / (64 + 32), and the same of every fourth pixel.
    loss = np.log(2) - 1 / 3
    assert float(nnunet_loss.deeply_supervised(undecided, labels)) == pytest.approx(loss, abs=1e-5)
    sure = 50 * (2.0 * torch.stack([1 - labels, labels], 1) - 1)
    # Of the three the lowest does not count, and the highest counts twice as much as the one below it.
    found = nnunet_loss.deeply_supervised([sure, undecided[1], undecided[2]], labels)
    assert float(found) == pytest.approx((2 * -1 + loss) / 3, abs=1e-5)
    found = nnunet_loss.deeply_supervised([undecided[0], undecided[1], -sure[:, :, ::4, ::4]], labels)
    assert float(found) == pytest.approx(loss, abs=1e-5)


def test_operations_are_those_of_all_outputs():
    class TwoOutputs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = torch.nn.ModuleList(torch.nn.Conv2d(1, 3, 1) for _ in range(2))

        def forward(self, images):
            return [head(images) for head in self.heads] if self.training else self.heads[0](images)

    found = contender.describe(TwoOutputs(), 8)
    # A 1 x 1 convolution to 3 channels; backward needs the gradients of the weights alone.
    assert found == {"parameters": 2 * (3 + 3), "evaluation": 2 * 3 * 64, "step": 2 * 2 * 2 * 3 * 64}


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    contender.check(["plain loop", "tuned loop"])
    with pytest.raises(ConfigError, match=r"needs the package dynamic_network_architectures: pip install -r .*txt"):
        contender.check(["nnU-Net"])
    packages = {package for entry in contender.CONTENDERS.values() for package in entry.packages}
    lines = Path(contender.REQUIREMENTS.replace("results/bench", str(BENCH))).read_text().splitlines()
    assert packages <= {line.partition("==")[0] for line in lines}
