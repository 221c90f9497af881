"""The synthetic sample looks like the real one to everything downstream."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tifffile

from hpcseg.data.sample import write_sample


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, slices=24, size=160, seed=3)
    return folder


def read(folder):
    return np.stack([tifffile.imread(path) for path in sorted(folder.iterdir())])


def test_layout_names_and_types_are_those_of_the_real_data(sample):
    assert sorted(path.name for path in (sample / "data").iterdir()) == [f"sample{i:04d}.tiff" for i in range(1, 25)]
    assert sorted(path.name for path in (sample / "labels").iterdir()) == [f"sample{i:04d}.tif" for i in range(1, 25)]
    slices, labels = read(sample / "data"), read(sample / "labels")
    assert (slices.shape, slices.dtype) == ((24, 160, 160), np.uint16)
    assert (labels.shape, labels.dtype) == ((24, 160, 160), np.uint8)
    with tifffile.TiffFile(sample / "data" / "sample0001.tiff") as tif:
        assert tif.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE


def test_class_shares_and_grey_range_are_those_of_the_real_data(sample):
    slices, labels = read(sample / "data"), read(sample / "labels")
    # Quantiles of the field itself: exact to a pixel in 614400, so far below 1e-4.
    for value, share in ((0, 0.295), (128, 0.434), (255, 0.271)):
        assert np.mean(labels == value) == pytest.approx(share, abs=1e-4)
    assert slices.min() > 16_000
    assert slices.max() < 47_000
    assert set(np.unique(labels)) == {0, 128, 255}


def test_neighbouring_slices_are_alike_and_the_ends_of_the_stack_are_not(sample):
    labels = read(sample / "labels")
    alike = np.mean(labels[1:] == labels[:-1], axis=(1, 2))
    # Independent slices with these shares agree on 0.295**2 + 0.434**2 + 0.271**2 = 0.35 of their pixels.
    assert alike.min() > 0.9
    assert np.mean(labels[0] == labels[-1]) < 0.5


def test_no_pair_of_thresholds_gets_nine_tenths_right(sample):
    slices, labels = read(sample / "data"), read(sample / "labels")
    bins = [np.bincount(slices[labels == value] // 500, minlength=132).cumsum() for value in (0, 128, 255)]
    best = max(
        bins[0][low] + bins[1][high] - bins[1][low] + bins[2][-1] - bins[2][high]
        for low, high in itertools.combinations(range(132), 2)
    )
    assert best / labels.size < 0.9


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_sample(tmp_path / name, slices=2, size=32, seed=seed)
    np.testing.assert_array_equal(read(tmp_path / "a" / "data"), read(tmp_path / "b" / "data"))
    assert (read(tmp_path / "a" / "labels") != read(tmp_path / "c" / "labels")).any()
