"""How far apart slices are alike: known from how they are made, on stacks that are easy and on such as spoil it."""

from __future__ import annotations

import dataclasses
import json

import h5py
import numpy as np
import pytest
import tifffile
from slice_folder import hpcseg

from hpcseg.config import CellConfig, DataConfig
from hpcseg.data.batches import open_source
from hpcseg.data.likeness import alike_slices, grey_points, measured_gap, step_between_compared, too_near
from hpcseg.data.notes import gap_notes, in_words, left_out
from hpcseg.data.pack import pack
from hpcseg.data.sets import describe_sets
from hpcseg.data.store import read_info
from hpcseg.errors import DatasetError

SHAPE = (128, 128)


def stack(slices, *, keeps, seed=0):
    """(N, 128, 128) values of deviation 1, of which each slice keeps so much of the one before: correlation keeps**n.

    Squares of 4 x 4 pixels have one value each, so that a slice has 1024 that are independent of each other.
    """
    rng = np.random.default_rng(seed)
    values = [rng.standard_normal((32, 32))]
    while len(values) < slices:
        values.append(keeps * values[-1] + np.sqrt(1 - keeps**2) * rng.standard_normal((32, 32)))
    return np.kron(np.array(values), np.ones((4, 4)))


def as_type(values, kind):
    """Grey values of a type; the types that have an end are filled."""
    low, step = {"uint8": (128, 20), "uint16": (30_000, 5_000), "float32": (0, 1)}[kind]
    grey = low + step * np.asarray(values)
    if kind == "float32":
        return grey.astype(np.float32)
    ends = np.iinfo(kind)
    return grey.round().clip(ends.min, ends.max).astype(kind)


def measured(images, limits=(-np.inf, np.inf), padding=None):
    step = step_between_compared(len(images))
    points = np.array([grey_points(image, padding) for image in images[::step]])
    padding = np.full(len(images), np.nan if padding is None else padding)
    return alike_slices(points, len(images), limits=limits, padding=padding[::step])


def packed(folder, images, *options):
    """Packed by the command; the file's path and what was said."""
    for number, image in enumerate(images, start=1):
        (folder / "data").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / "data" / f"s{number:04d}.tif", image)
        (folder / "labels").mkdir(exist_ok=True)
        tifffile.imwrite(folder / "labels" / f"label{number:04d}.tif", (image > image.mean()).astype(np.uint8))
    result = hpcseg("pack", folder, "-o", folder / "packed.h5", *options)
    assert result.exit_code == 0, result.output
    return folder / "packed.h5", result


@pytest.mark.parametrize(
    ("keeps", "apart"),
    # The first n at which keeps**n is below 0.15: ln 0.15 / ln keeps is 2.1, 5.3, 8.5 and 24.4. Of 200 slices the mean
    # of 1024 values each is known to 0.01, where it changes by 0.006 to 0.1 from one n to the next.
    [(0.4, 3), (0.7, 6), (0.8, 9)],
)
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_slices_are_alike_up_to_where_their_mean_correlation_falls_below_015(keeps, apart, kind):
    assert measured(as_type(stack(200, keeps=keeps), kind)) == apart


def test_slices_that_have_nothing_of_each_other_are_unlike_at_once():
    assert measured(as_type(stack(40, keeps=0.0), "uint16")) == 1
    assert measured(as_type(stack(2, keeps=0.0), "uint16")) == 1


@pytest.mark.parametrize("slices", [1, 2, 3, 50])
@pytest.mark.parametrize("value", [0, 1000, 65_535])
def test_of_slices_that_are_all_the_same_none_is_unlike(slices, value):
    varied = as_type(stack(1, keeps=0.0), "uint16")
    assert measured(np.repeat(varied, slices, axis=0)) == slices
    assert measured(np.full((slices, *SHAPE), value, dtype=np.uint16)) == slices, "of one value each nothing is told"
    drifting = np.arange(slices, dtype=np.float32)[:, None, None] * np.ones(SHAPE, dtype=np.float32)
    assert measured(drifting) == slices


def test_slices_of_one_value_among_others_do_not_count():
    images = as_type(stack(200, keeps=0.7), "uint16")
    images[20:60:2] = 65_535
    images[[0, 7, -1]] = 0
    assert measured(images) == 6


def test_a_structure_that_changes_evenly_through_the_stack_does_not_end():
    first, last = stack(2, keeps=0.0)
    share = np.linspace(0, 1, 60)[:, None, None]
    # Two slices half of the stack apart have a correlation of 0.4 at least: (1, 0) with (1, 1), or (3, 1) with (1, 3).
    assert measured(as_type((1 - share) * first + share * last, "float32")) == 60


def test_brightness_and_contrast_that_change_from_slice_to_slice_are_no_unlikeness():
    values = stack(200, keeps=0.7)
    rng = np.random.default_rng(1)
    gain, offset = rng.uniform(0.5, 2, (200, 1, 1)), rng.uniform(-9, 9, (200, 1, 1))
    assert measured(as_type(gain * values + offset, "float32")) == measured(as_type(values, "float32")) == 6


def test_a_hot_pixel_in_the_same_place_of_every_slice_makes_none_of_them_alike():
    images = as_type(stack(200, keeps=0.7), "float32")
    limits = tuple(np.quantile(images, [0.001, 0.999]).tolist())
    images[:, 50, 50] = np.finfo(np.float32).max
    images[::2, 80, 80] = -1e30
    assert measured(images, limits) == 6


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_a_border_that_all_slices_have_makes_none_of_them_alike(kind):
    images = as_type(stack(200, keeps=0.7), kind)
    y, x = np.mgrid[:128, :128] - 63.5
    images[:, y**2 + x**2 > 60**2] = 7
    # With the border as grey values like others they are alike for ever: it is a quarter of each slice.
    assert measured(images) == 200
    assert measured(images, padding=7.0) == 6


def test_of_a_long_stack_some_slices_are_compared():
    # 3000 slices, every third of them: 0.97**n is below 0.15 from 62.3 on, so of 63, 66 ... it is 63 or, since the mean
    # over 1000 slices of the chain is known to 0.004, and changes by 0.014 in three, one of its neighbours.
    rng = np.random.default_rng(0)
    values = [rng.standard_normal((8, 8))]
    for _ in range(2_999):
        values.append(0.97 * values[-1] + np.sqrt(1 - 0.97**2) * rng.standard_normal((8, 8)))
    images = np.kron(np.array(values), np.ones((4, 4))).astype(np.float32)
    apart = measured(images)
    assert apart % 3 == 0 and abs(apart - 63) <= 6


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 5), (7, 200), (129, 33), (501, 501)])
def test_points_are_means_of_what_lies_all_over_a_slice_of_any_size(shape):
    assert set(grey_points(np.full(shape, 40_000, dtype=np.uint16)).tolist()) == {40_000.0}
    assert set(grey_points(np.full(shape, np.finfo(np.float32).max)).tolist()) == {np.finfo(np.float32).max}
    ramp = np.arange(shape[0])[:, None] + np.arange(shape[1]) * 1000.0
    points = grey_points(ramp.astype(np.float32))
    assert len(points) <= 1024
    # Up to its corners: half a square of 4 from each, and of what is smaller than two squares one is left out.
    assert points.min() <= 1.5 * 1001 and points.max() >= ramp.max() - 5.5 * 1001


@pytest.mark.parametrize(
    ("alike", "slices", "gap"),
    [(41, 500, 41), (41, 100, 10), (41, 410, 41), (41, 409, 40), (1, 500, 1), (500, 500, 50), (9, 9, 1), (1, 1, 1)],
)
def test_a_gap_is_what_is_alike_but_at_most_a_tenth(alike, slices, gap):
    assert measured_gap(alike, np.arange(7, 7 + slices)) == gap


@pytest.mark.parametrize(
    ("alike", "gap"),
    # Of every tenth slice: unlike from the next one on, which is 10 away; from the fifth on, 50 away; and a tenth of
    # the 991 numbers from the first to the last of 100.
    [(1, 1), (5, 41), (11, 99), (100, 99)],
)
def test_a_gap_counts_the_numbers_of_slices_and_not_how_many_were_packed(alike, gap):
    assert measured_gap(alike, np.arange(1, 1000, 10)) == gap


def test_pack_measures_it_and_shows_it_and_a_blocked_split_keeps_it(tmp_path):
    path, said = packed(tmp_path, as_type(stack(120, keeps=0.7), "uint16"))
    assert "alike less than 6 apart; a blocked split leaves out 6 between two sets" in said.stdout
    assert "Note" not in said.stderr
    assert "alike less than 6 apart" in hpcseg("info", path).stdout
    told = json.loads(hpcseg("info", path, "--json").stdout)
    assert (told["alike_slices"], told["gap_slices"], told["notes"]) == (6, 6, [])
    source = open_source(path, DataConfig(split="blocked"))
    assert source.split.gap_slices == 6
    # 120 slices without three gaps of 6.
    assert sum(len(rows) for rows in (source.split.train, source.split.validation, source.split.test)) == 102
    wished = open_source(path, DataConfig(split="blocked", gap_slices=6))
    assert wished.split.sha256() == source.split.sha256()


def test_a_stack_that_is_too_short_for_its_gap_is_divided_all_the_same_and_told_of(tmp_path):
    path, said = packed(tmp_path, as_type(stack(40, keeps=0.8), "uint8"))
    info = read_info(path)
    assert info.alike_slices > 4
    assert (
        f"alike less than {info.alike_slices} apart, but a blocked split leaves out only 4 between two" in said.stderr
    )
    assert open_source(path, DataConfig(split="blocked")).split.gap_slices == 4
    note = "Note: slices are alike farther apart than two sets are"
    for gap, noted in (("auto", True), (info.alike_slices, False)):
        told = describe_sets(info, [CellConfig(data=DataConfig(split="blocked", gap_slices=gap))])
        assert any(line.startswith(note) for line in told) == noted


@pytest.mark.parametrize(
    ("numbers", "alike", "told"),
    [
        # The nearest two sets are 2 packed slices apart, which is enough, with a gap of the 2 numbers of one slice.
        (range(0, 30, 2), 2, False),
        (range(0, 300, 20), 2, False),
        # A tenth of 30 slices is 3, so that sets are 4 apart, and so much is enough where slices 4 apart are unlike.
        (range(30), 4, False),
        (range(30), 5, True),
        # 6 slices leave 1 out, and 3 none.
        (range(6), 2, False),
        (range(6), 3, True),
        (range(3), 1, False),
        (range(3), 3, True),
        # A hole between two of every second slice is as good as the slice that is missing there.
        ([0, 2, 4, 8, 10, 14, 16, 20, 22, 24, 28, 30, 32], 2, False),
        # Bundles that are far apart are sets, whatever lies within one; but not where all slices are alike.
        ([1, 2, 3, 4, 101, 102, 201, 202], 3, False),
        ([1, 2, 3, 4, 101, 102, 201, 202], 8, True),
    ],
)
def test_sets_are_said_to_be_alike_where_they_are_as_near_as_slices_that_are(tmp_path, numbers, alike, told):
    path, _ = packed(tmp_path, np.zeros((len(numbers), 64, 64), dtype=np.uint8) + np.arange(64, dtype=np.uint8))
    info = dataclasses.replace(read_info(path), numbers=np.array(numbers), alike_slices=alike)
    config = DataConfig(split="blocked", tile_size=16)
    said = [line for line in describe_sets(info, [CellConfig(data=config)]) if "training slices" in line]
    assert (len(said), len(gap_notes(info))) == (told, told)


def test_inputs_of_sets_are_as_near_as_they_are_with_the_slices_beside_them():
    sets = (np.arange(10), np.array([14]), np.array([18]))
    # 9 and 14 are 5 apart; with one slice on each side their inputs are 3 apart, with two 1.
    assert [too_near(sets, 4, np.arange(20), context) for context in (0, 1)] == [False, True]
    # 14 and 18 are the nearest.
    assert [too_near(sets, alike, np.arange(20), 1) for alike in (2, 3)] == [False, True]


@pytest.mark.parametrize(
    ("alike", "gap", "told"),
    [(1, 1, "not alike; none"), (3, 15, "alike less than 3 apart; 2 (slice numbers: 15)"), (9, 7, "alike however")],
)
def test_what_is_alike_and_left_out_is_said_of_every_seventh_slice(tmp_path, alike, gap, told):
    path, _ = packed(tmp_path, as_type(stack(9, keeps=0.0), "uint8"))
    info = dataclasses.replace(read_info(path), numbers=np.arange(1, 64, 7), alike_slices=alike)
    assert f"{in_words(info)}; {left_out(info, gap)}".startswith(told)


def test_slices_that_never_stop_being_alike_are_told_of(tmp_path):
    path, said = packed(tmp_path, np.repeat(as_type(stack(1, keeps=0.0), "uint8"), 20, axis=0))
    assert "slices are alike however far apart they are, but a blocked split leaves out only 2 between" in said.stderr
    assert open_source(path, DataConfig(split="blocked")).split.gap_slices == 2


def test_the_same_slices_have_the_same_gap_and_hash_whoever_packs_them(tmp_path, monkeypatch):
    from hpcseg.data import pack as packing

    path, _ = packed(tmp_path, as_type(stack(60, keeps=0.7), "float32"))
    first = read_info(path)
    monkeypatch.setattr(packing, "processes_for", lambda pairs: 2)
    again = pack(tmp_path / "data", tmp_path / "labels", tmp_path / "again.h5", command="test")
    assert (again.alike_slices, again.data_sha256) == (first.alike_slices, first.data_sha256)


def test_a_padded_border_and_a_hot_pixel_do_not_decide_the_gap_of_packed_slices(tmp_path):
    images = as_type(stack(120, keeps=0.7), "float32")
    images[:, 60, 60] = 1e9
    images = np.pad(images, ((0, 0), (40, 40), (40, 40)), constant_values=-500)
    path, _ = packed(tmp_path, images)
    # Without the two it is 6, at a correlation of 0.118. The pixel is one of 361 points, three deviations bright, which
    # adds 9 / 370 to it.
    assert read_info(path).alike_slices in (6, 7)


def test_a_file_of_before_it_was_measured_takes_a_gap_in_numbers_or_is_packed_again(tmp_path):
    path, _ = packed(tmp_path, as_type(stack(40, keeps=0.4), "uint8"))
    with h5py.File(path, "r+") as file:
        del file.attrs["alike_slices"]
        file.attrs["schema_version"] = 2
    told = r'gap_slices is "auto", but .* Pack them again with `hpcseg pack --force`, or set data\.gap_slices to a num'
    with pytest.raises(DatasetError, match=told):
        open_source(path, DataConfig(split="blocked"))
    assert open_source(path, DataConfig(split="blocked", gap_slices=3)).split.gap_slices == 3
    assert open_source(path, DataConfig()).split.gap_slices is None
    assert "`hpcseg pack --force` packs them again" in hpcseg("info", path).stderr
    old = read_info(path).data_sha256
    assert hpcseg("pack", tmp_path, "-o", path, "--force").exit_code == 0
    assert read_info(path).data_sha256 == old
    assert open_source(path, DataConfig(split="blocked")).split.gap_slices == 3
