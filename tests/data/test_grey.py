"""What grey values are scaled by: quantiles in one pass, one affine map, and sigma as a share of their span."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import tifffile
from slice_folder import hpcseg, write_label

from hpcseg.data import pack as packing
from hpcseg.data import store
from hpcseg.data.grey import GreyCounts, GreyScale, border_mask, choose_scale, count_quantiles, read_scale
from hpcseg.data.notes import grey_notes
from hpcseg.data.pack import pack
from hpcseg.errors import DatasetError
from hpcseg.sigma import Share

SHARES = (0.001, 0.999)
RNG = np.random.default_rng(0)
VALUES = {
    "uint8": RNG.integers(3, 250, (3, 90, 90)).astype(np.uint8),
    "uint16": RNG.normal(30_000, 5_000, (3, 90, 90)).astype(np.uint16),
    "float32": RNG.normal(0, 1, (3, 90, 90)).astype(np.float32),
    "float32 of all sizes": (RNG.choice([-1, 1], (3, 90, 90)) * np.exp(RNG.normal(0, 20, (3, 90, 90)))).astype("f4"),
}


def counted(parts):
    counts = GreyCounts(parts[0].dtype)
    for part in parts:
        counts.add(part)
    return counts


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("shares", [SHARES, (0.0, 1.0), (0.25, 0.5)])
def test_quantiles_are_those_of_all_pixels_sorted(values, shares):
    found = counted(values).quantiles(shares)
    wanted = np.quantile(values, shares, method="inverted_cdf")
    # Whole numbers have a bin each; of a float 12 binary digits behind the first are kept.
    assert found == pytest.approx(wanted.tolist(), rel=0 if values.dtype.kind == "u" else 2**-12)


HARD = RNG.normal(0, 1, 20_000).astype(np.float32)
HARD[::7], HARD[10:500], HARD[600:900] = np.nan, 0.0, -0.0
HARD[[3, 5]] = np.finfo("f4").max, np.finfo("f4").min


@pytest.mark.parametrize(
    "values",
    [
        *VALUES.values(),
        HARD,
        HARD[~np.isnan(HARD)][:40],
        RNG.uniform(0.2, 0.8, 20_000).astype("f4") * (np.arange(20_000) > 0),  # the least is a whole number
        np.concatenate([np.zeros(9_000), RNG.normal(-0.3, 3, 50)]).astype("f4"),  # nearly all are one value
        np.full(20_000, 0.37, dtype="f4"),
        RNG.integers(-(2**15), 2**15, 20_000).astype("f4"),
        RNG.integers(-(2**31), 2**31, 20_000).astype("i4"),
    ],
    ids=[*VALUES, "all kinds", "few", "one zero", "zeros", "one value", "whole", "int32"],
)
def test_quantiles_of_more_pixels_than_fit_into_memory_are_those_of_all_sorted(values):
    dtype, shares, passes = values.dtype if values.dtype.kind == "u" else np.dtype("f4"), np.linspace(0, 1, 1001), []

    def slices():
        passes.append(None)
        return np.array_split(values, 7)

    found = count_quantiles(slices, dtype, shares)
    known = np.sort(values[~np.isnan(values)].astype(dtype))
    assert found.tolist() == known[np.ceil(shares * known.size).clip(1).astype(int) - 1].tolist()
    assert len(passes) == (1 if dtype.kind == "u" else 2)


def test_pixels_without_a_grey_value_have_no_quantiles():
    assert np.isnan(count_quantiles(lambda: [np.full(3, np.nan, dtype="f4")], np.dtype("f4"), np.array([0.5]))).all()


def test_counts_of_parts_add_up_to_those_of_the_whole_in_any_order():
    values = VALUES["float32"]
    one, merged = counted([values]), GreyCounts(values.dtype)
    for part in (values[2], values[0], values[1]):
        merged.merge(*counted([part]).parts())
    for ours, theirs in zip(merged.parts(), one.parts(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 0.5, 200.0, -4095.0])
def test_a_float_of_few_digits_is_found_as_it_is(value):
    assert counted([np.full((4, 4), value, dtype=np.float32)]).quantiles(SHARES) == (value, value)


def test_the_papers_scale_divides_by_65535_to_the_bit():
    values = np.arange(65_536, dtype=np.uint16)
    for counts in (values, values.astype(np.float32)):
        found = GreyScale(0.0, 65_535.0).normalised(counts)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, values.astype(np.float32) / np.float32(65_535))


def test_a_scale_is_affine_and_clips_nothing():
    scale = GreyScale(-2.0, 6.0, (-2.0, 6.0))
    assert scale.normalised(np.array([-10.0, -2.0, 2.0, 6.0, 14.0], dtype=np.float32)).tolist() == [-1, 0, 0.5, 1, 2]
    assert read_scale(json.loads(json.dumps(scale.as_dict()))) == scale


@pytest.mark.parametrize(
    ("dtype", "full_scale", "quantiles", "ends"),
    [
        ("u2", 65_535.0, (19_624.0, 43_421.0), (0, 65_535)),  # the paper's
        ("u1", 255.0, (69.0, 176.0), (0, 255)),
        ("u2", 65_535.0, (1_116.0, 2_827.0), (1_116, 2_827)),  # 12 bits of a camera
        ("u1", 255.0, (5.0, 100.0), (5, 100)),
        ("f4", 1_000.0, (0.25, 0.75), (0.25, 0.75)),
        ("f4", 1_000.0, (3.0, 3.0), (0, 1_000)),  # one value: nothing to map by
    ],
)
def test_what_fills_its_type_keeps_the_types_scale_and_all_else_has_its_quantiles(dtype, full_scale, quantiles, ends):
    scale = choose_scale(np.dtype(dtype), full_scale, quantiles)
    assert (scale.low, scale.high, scale.quantiles) == (*ends, quantiles)


def test_what_lies_far_beyond_the_quantiles_is_drawn_in_unless_the_types_range_is_the_scale():
    floats = choose_scale(np.dtype("f4"), 1_000.0, (1.0, 2.0))
    assert floats.limits == (-2.0, 5.0)
    values = np.array([-1_000.0, -2.0, 0.0, 4.5, 1_000.0], dtype=np.float32)
    limited = floats.limited(values)
    assert limited.dtype == np.float32 and limited.tolist() == [-2, -2, 0, 4.5, 5]
    twelve = choose_scale(np.dtype("u2"), 65_535.0, (1_116.0, 2_827.0))
    assert twelve.limited(np.array([0, 2_827, 65_535], dtype=np.uint16)).tolist() == [0, 2_827, 2_827 + 3 * 1_711]
    narrow = choose_scale(np.dtype("u2"), 65_535.0, (60_000.0, 60_100.0))
    assert narrow.limited(np.array([0, 65_535], dtype=np.uint16)).tolist() == [0, 65_535]
    asked = choose_scale(np.dtype("f4"), 1_000.0, (1.0, 2.0), (-50.0, 3.0))
    assert (asked.low, asked.high, asked.limits) == (-50, 3, (-50, 5))
    assert read_scale(json.loads(json.dumps(asked.as_dict()))) == asked


def test_a_share_becomes_counts_of_the_span_between_the_quantiles():
    scale = GreyScale(0.0, 65_535.0, (19_624.0, 43_421.0))
    # The paper's 10000 counts to two digits.
    assert scale.counts(Share("42 %")) == pytest.approx(0.42 * 23_797) == pytest.approx(10_000, rel=1e-3)
    assert scale.counts(5_000.0) == 5_000
    with pytest.raises(DatasetError, match=r"was not measured.*hpcseg pack --force"):
        GreyScale(0.0, 1.0).counts(Share("42 %"))
    with pytest.raises(DatasetError, match="have the one value 7"):
        GreyScale(0.0, 1.0, (7.0, 7.0)).counts(Share("42 %"))


def border(image):
    """The value of a border and its pixels, 0 where there is none."""
    mask = border_mask(image)
    return (0, 0) if mask is None else (image[0, 0], np.count_nonzero(mask))


def test_a_border_is_the_padding_round_a_slice_and_round_a_circle():
    image = VALUES["uint16"][0].copy()
    assert border(image) == (0, 0)
    framed = np.pad(image, ((2, 3), (4, 5)), constant_values=77)
    assert border(framed) == (77, framed.size - image.size)
    y, x = np.mgrid[-44.5:45, -44.5:45]
    outside = y**2 + x**2 > 45**2
    assert border(np.where(outside, 0, image)) == (0, outside.sum())
    assert border(np.full((9, 9), 5)) == (0, 0), "a slice of one value has nothing that is padded"
    image[:3, :3] = 9
    assert border(image) == (0, 0), "one corner is no border"


# --- through `hpcseg pack`


@pytest.fixture
def folder(tmp_path):
    """Makes a folder of slices and labels out of an array (N, H, W)."""

    def make(values):
        (tmp_path / "slices" / "data").mkdir(parents=True)
        for number, pixels in enumerate(values, start=1):
            tifffile.imwrite(tmp_path / "slices" / "data" / f"s{number}.tif", pixels)
            write_label(tmp_path / "slices", number, shape=pixels.shape)
        return tmp_path / "slices"

    return make


def packed(folder, output, *options):
    result = hpcseg("pack", folder, "-o", output, *options)
    assert result.exit_code == 0, result.output
    return store.read_info(output), result


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_the_quantiles_in_a_file_do_not_depend_on_the_number_of_processes(folder, output, monkeypatch, kind):
    slices = folder(VALUES[kind])
    found = []
    for processes in (1, 2):
        monkeypatch.setattr(packing, "processes_for", lambda pairs, count=processes: count)
        found.append(pack(slices / "data", slices / "labels", output, command="test").grey)
    assert found[0] == found[1]
    wanted = np.quantile(VALUES[kind], SHARES, method="inverted_cdf")
    assert found[0].quantiles == pytest.approx(wanted.tolist(), rel=2**-12)


def test_a_hot_pixel_decides_no_scale_and_is_named(folder, output):
    values = VALUES["float32"].copy()
    values[1, 40, 40] = 1e6
    info, result = packed(folder(values), output)
    assert (info.grey.low, info.grey.high) == info.grey.quantiles
    assert info.grey.high < 4
    note = "1 of 3 slices have grey values far outside of all others, such as 1e+06 in s2.tif"
    assert note in result.stderr and "A hot pixel?" in result.stderr
    assert any(note in line for line in json.loads(hpcseg("info", output, "--json").stdout)["notes"])


def test_dead_pixels_and_a_padded_border_are_named_with_what_to_do(folder, output):
    values = VALUES["uint16"].copy()
    values[2, 5:7, 5] = 0
    values = np.pad(values, ((0, 0), (10, 10), (0, 0)), constant_values=1)
    info, result = packed(folder(values), output)
    assert "1 of 3 slices have 2 pixels of the value 0, such as s3.tif" in result.stderr
    assert "round 3 of 3 slices lies a border of one value, 18.2% of their pixels, such as 1 in s1.tif" in result.stderr
    assert result.stderr.count("pack again") == 2
    # Padding is no grey value of the sample, and of 24 pixels below the first quantile two are dead ones.
    wanted = np.quantile(VALUES["uint16"], SHARES, method="inverted_cdf")
    assert info.grey.quantiles == pytest.approx(wanted.tolist(), rel=1e-2)


def test_a_border_of_both_zeros_is_no_grey_value(folder, output):
    """As a reconstruction times a mask has it, whose values outside were of both signs."""
    values = np.abs(VALUES["float32"]) + 3
    round_it = np.copysign(np.float32(0), VALUES["float32"])
    round_it[:, 0] = round_it[:, -1] = 0
    info, _ = packed(folder(np.concatenate([round_it, values, round_it], axis=1)), output)
    assert info.zero_pixels.tolist() == [0, 0, 0] and info.border_pixels.tolist() == [2 * 90 * 90] * 3
    assert info.grey.quantiles == pytest.approx(np.quantile(values, SHARES, method="inverted_cdf").tolist(), rel=2**-12)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_ordinary_slices_have_no_note(folder, output, kind):
    info, _ = packed(folder(VALUES[kind]), output)
    assert grey_notes(info) == ()


def test_a_grey_range_that_was_asked_for_is_taken_and_is_another_data_set(folder, output):
    slices = folder(VALUES["uint16"])
    usual, _ = packed(slices, output)
    other = hpcseg("pack", slices, "-o", output, "--grey-range", 10_000, 50_000)
    assert other.exit_code == 2 and "its grey range is 0 to 65535, and this would be 10000" in other.stderr
    asked, result = packed(slices, output, "--grey-range", 10_000, 50_000, "--force")
    assert (asked.grey.low, asked.grey.high) == (10_000, 50_000)
    assert "a model meets 10000 as 0 and 50000 as 1" in result.stdout
    assert asked.data_sha256 != usual.data_sha256
    assert "there already" in packed(slices, output, "--grey-range", 10_000, 50_000)[1].stderr
    whole, _ = packed(slices, output, "--grey-range", 0, 65_535, "--force")
    assert whole.data_sha256 == usual.data_sha256


@pytest.mark.parametrize("ends", [(2, 1), (1, 1), (0, "inf"), ("nan", 1)])
def test_a_grey_range_that_is_none_is_refused_before_anything_is_read(folder, output, ends):
    result = hpcseg("pack", folder(VALUES["uint8"]), "-o", output, "--grey-range", *ends)
    assert result.exit_code == 2 and "LOW must be below HIGH" in result.stderr
    assert not output.exists()


def test_a_file_of_before_there_were_quantiles_is_read_as_it_was(folder, output):
    slices = folder(VALUES["uint16"])
    new, _ = packed(slices, output)
    with h5py.File(output, "r+") as file:
        for name in ("grey_range", "grey_quantiles"):
            del file.attrs[name]
        for name in ("zero_pixels", "border_value", "border_pixels"):
            del file["table"][name]
        file.attrs["schema_version"] = 1
    old = store.read_info(output)
    assert old.data_sha256 == new.data_sha256
    assert (old.grey.low, old.grey.high, old.grey.quantiles) == (0, 65_535, None)
    assert "hpcseg pack --force" in hpcseg("info", output).stderr
    assert "there already" in hpcseg("pack", slices, "-o", output).stderr


@pytest.mark.parametrize(
    ("low", "high", "told"), [(0, 1, True), (70_000, 80_000, True), (-5, 5, True), (0, 65_535, False)]
)
def test_a_grey_range_that_has_few_of_the_grey_values_is_noted(folder, output, low, high, told):
    values = VALUES["uint16"]
    slices = folder(values)
    info, result = packed(slices, output, "--grey-range", low, high)
    assert any("most lie outside of" in note for note in grey_notes(info)) == told
    assert ("--grey-range takes grey values of these slices" in " ".join(result.stderr.split())) == told


@pytest.mark.parametrize(("offset", "told"), [(1e5, True), (-1e5, True), (10.0, False)])
def test_a_span_that_is_small_beside_its_distance_from_0_is_noted(folder, output, offset, told):
    values = np.random.default_rng(0).uniform(offset, offset + 6, (3, 64, 64)).astype(np.float32)
    info, _ = packed(folder(values), output)
    assert any("Subtract" in note for note in grey_notes(info)) == told
    assert not told or f"Subtract {info.grey_min.min():g} from all slices" in " ".join(grey_notes(info))
