"""Grey values of another kind are mapped as they are told, or refused; never guessed."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import tifffile

from hpcseg.errors import ConfigError, DatasetError
from hpcseg.predict.mapping import Mapping, decide, share_outside, volume_percentiles
from hpcseg.predict.request import Request, in_memory
from hpcseg.predict.volume import open_volume
from hpcseg.runs.schema import as_record


@pytest.fixture
def volume(tmp_path, tiny_folder):
    """Makes a volume of four slices of the sample, changed by a function."""

    def make(change):
        (tmp_path / "volume").mkdir()
        for number in (3, 6, 9, 12):
            pixels = change(tifffile.imread(tiny_folder / "data" / f"sample{number:04d}.tiff"))
            tifffile.imwrite(tmp_path / "volume" / f"s{number}.tif", pixels)
        return open_volume(tmp_path / "volume")

    return make


def test_slices_like_the_trainings_are_taken_as_they_are(volume, model):
    mapping = decide(volume(lambda pixels: pixels), model.card, on_note=pytest.fail)
    assert mapping.kind == "as trained"
    image = mapping.apply(np.array([[0, 65535, 13107]], dtype=np.uint16), model.card.grey)
    assert image.dtype == np.float32 and image.tolist() == [[0, 1, np.float32(0.2)]]


STRANGERS = {
    "8 bit": lambda pixels: (pixels // 256).astype(np.uint8),
    "float": lambda pixels: pixels.astype(np.float32) / 65535,
    "8 bit in 16": lambda pixels: pixels // 256,
    "brighter": lambda pixels: (pixels // 4 + 49000).astype(np.uint16),
    "hardly any contrast": lambda pixels: (pixels // 50 + 30000).astype(np.uint16),
    "constant": lambda pixels: np.full_like(pixels, 30000),
}


@pytest.mark.parametrize("change", STRANGERS.values(), ids=STRANGERS)
def test_other_grey_values_are_refused_with_the_options_that_help(volume, model, change):
    with pytest.raises(DatasetError, match=r"the model was trained on .*--range LOW HIGH.*--percentiles LOW HIGH"):
        decide(volume(change), model.card)


def test_another_exposure_within_the_range_is_noted_with_both_scans_values(volume, model):
    told, sample = [], volume(lambda pixels: pixels // 2 + 4000)
    assert decide(sample, model.card, on_note=told.append).kind == "as trained"
    assert re.search(
        r"1 to 99 % of the grey values: [\d.]+ to [\d.]+ here, [\d.]+ to [\d.]+ in training.*--percentiles", *told
    )


@pytest.mark.parametrize("factor", [1.0, 1.01, 0.6])
def test_models_of_different_exposures_are_no_ensemble_for_percentiles_and_noted_otherwise(volume, model, factor):
    quantiles = tuple(factor * value for value in model.card.grey_quantiles)
    card = dataclasses.replace(model.card, grey_quantiles=quantiles, model_sha256="0" * 64)
    both, sample = (model, dataclasses.replace(model, name="other", card=card)), volume(lambda pixels: pixels)
    asked = Request(models=(), source=sample.path, out=sample.path)
    by_percentiles = dataclasses.replace(asked, percentiles=(0.5, 99.5))
    if factor > 0.9:
        assert not in_memory(asked, both, sample).notes
        assert in_memory(by_percentiles, both, sample).mapping.kind == "percentiles"
        return
    (note,) = in_memory(asked, both, sample).notes
    low, high = (np.percentile([sample.read(at) for at in range(4)], share) for share in (1, 99))
    found = re.search(rf"{model.name} and other are of different exposures.* ([\d.]+) to ([\d.]+) and", note)
    assert [float(one) for one in found.groups()] == pytest.approx([low, high], rel=0.05)
    with pytest.raises(ConfigError, match=r"had different ones: .*Predict with each alone"):
        in_memory(by_percentiles, both, sample)


WRONG = {  # of 8-bit copies of the training's slices, with all values that these have
    "of another type": ({"range_": (0, 65_535)}, "--range", "22 to 236"),
    "of a copy that used all 8 bits": ({"range_": (0, 255)}, "--range", "5654 to 60652"),
    "of hardly any": ({"range_": (0, 1e-30)}, "--range", r"[\d.]+e\+\d+ to [\d.]+e\+\d+"),
    "of nearly all numbers": ({"range_": (-1e300, 1e300)}, "--range", "32767.5 to 32767.5"),
    "of a few values": ({"percentiles": (0, 1)}, "--percentiles", "[0-9.]+ to [0-9.]+"),
}


@pytest.mark.parametrize(("wish", "option", "values"), WRONG.values(), ids=WRONG)
def test_mapped_values_that_are_not_the_trainings_are_noted_with_both(volume, model, wish, option, values):
    def stretched(pixels):
        low, high = model.card.quantile(1), model.card.quantile(99)
        return np.clip(23 + (pixels - low) / (high - low) * 214, 0, 255).astype(np.uint8)

    told = []
    assert decide(volume(stretched), model.card, **wish, on_note=told.append).kind in option
    note = told[-1]
    first, last = (f"{model.card.quantile(share):g}" for share in (1, 99))
    assert f"{option} {next(iter(wish.values()))[0]:g}" in note and f"{first} to {last} in training" in note
    assert re.search(rf"1 to 99 % of the grey values.*: {values} here", note)


@pytest.mark.parametrize("wish", [{"range_": (0.0, 1.0)}, {"percentiles": (1, 99)}], ids=str)
def test_a_scan_with_other_shares_of_phases_is_mapped_without_a_word(volume, model, wish):
    def less_of_the_brightest(pixels):
        bright = pixels > np.median(pixels)
        return np.where(bright & (np.indices(pixels.shape).sum(0) % 3 > 0), pixels.min(), pixels) / np.float32(65_535)

    decide(volume(less_of_the_brightest), model.card, **wish, on_note=pytest.fail)


@pytest.mark.parametrize("range_", [(0, 5e-324), (0, 1e-305), (-1.7e308, 1.7e308), (0, 1e-38)], ids=str)
def test_a_range_that_makes_no_numbers_of_grey_values_is_refused(volume, model, range_):
    with pytest.raises(ConfigError, match=r"--range .* to no numbers that a network can take"):
        decide(volume(lambda pixels: pixels), model.card, range_=range_)


def test_slices_without_any_grey_value_may_be_mapped_by_a_range(volume, model):
    nothing = volume(lambda pixels: np.full(pixels.shape, np.nan, dtype=np.float32))
    assert decide(nothing, model.card, range_=(0, 1), on_note=pytest.fail).kind == "range"


@pytest.mark.parametrize(("high", "noted"), [(0.99, True), (1, True), (99, False)])
def test_percentiles_that_look_like_shares_of_one_are_noted(volume, model, high, noted):
    told = []
    decide(volume(lambda pixels: pixels), model.card, percentiles=(0.01, high), on_note=told.append)
    wanted = [f"--percentiles 0.01 {high:g} are per cent; for shares of 1: 1 {100 * high:g}."]
    assert told[:1] == (wanted if noted else [])


@pytest.mark.parametrize("percentiles", [None, (1.0, 99.0)])
def test_a_volume_of_nothing_but_nan_tells_no_grey_values(volume, model, percentiles):
    card = dataclasses.replace(model.card, grey_dtype="float32")
    nothing = volume(lambda pixels: np.full(pixels.shape, np.nan, dtype=np.float32))
    with pytest.raises(DatasetError, match="holds no grey values"):
        decide(nothing, card, percentiles=percentiles)


def test_percentiles_are_of_the_pixels_that_have_a_grey_value(volume, model):
    def round_view(pixels):
        values = np.linspace(0, 1, pixels.size, dtype=np.float32).reshape(pixels.shape)
        return np.where(np.arange(pixels.shape[1]) < 32, np.nan, values)

    source = volume(round_view)
    known = source.read(0)[:, 32:]
    found = volume_percentiles(source, (10.0, 90.0), lambda *_: None)
    assert found == tuple(np.percentile(known, (10, 90), method="inverted_cdf"))


def test_a_range_is_that_of_a_conversion_to_the_trainings_type(volume, model):
    mapping = decide(volume(STRANGERS["float"]), model.card, range_=(0.0, 1.0))
    np.testing.assert_allclose(
        mapping.apply(np.array([0.0, 0.5, 1.0, 1.2]), model.card.grey), [0, 0.5, 1, 1.2], rtol=1e-6
    )
    assert mapping.meant == (0, 65535)
    assert as_record(Mapping, json.loads(json.dumps(mapping.as_dict()))) == mapping


@pytest.mark.parametrize("change", [STRANGERS["8 bit"], STRANGERS["float"]], ids=["8 bit", "float"])
def test_percentiles_of_the_volume_become_the_trainings(volume, model, change):
    strangers = volume(change)
    mapping = decide(strangers, model.card, percentiles=(1, 99))
    pixels = np.stack([strangers.read(index) for index in range(len(strangers))])
    low, high = np.percentile(pixels, (1, 99), method="inverted_cdf")
    assert mapping.found == pytest.approx((low, high), abs=float(np.ptp(pixels)) / 30_000)
    assert mapping.meant == (model.card.quantile(1), model.card.quantile(99))
    mapped = mapping.apply(np.array(mapping.found), model.card.grey) * 65_535
    np.testing.assert_allclose(mapped, mapping.meant, rtol=1e-6)
    assert share_outside(mapping.apply(pixels, model.card.grey), model.card) < 0.01
    assert as_record(Mapping, json.loads(json.dumps(mapping.as_dict()))) == mapping


def test_percentiles_are_of_the_whole_volume_and_progress_is_told(volume):
    strangers, told = volume(lambda pixels: pixels.astype(np.int32) - 40_000), []
    found = volume_percentiles(strangers, (0, 100), lambda *done: told.append(done))
    pixels = np.stack([strangers.read(index) for index in range(4)])
    assert found == (pixels.min(), pixels.max())
    assert told == [(done, 8) for done in range(1, 9)]


@pytest.mark.parametrize("value", [1e6, float(np.finfo("f4").max), 0.0])
def test_a_hot_pixel_or_a_dead_one_does_not_spoil_the_percentiles_of_all_others(volume, value):
    def spoiled(pixels):
        pixels = pixels.astype(np.float32) / 65_535
        pixels[0, 0] = value
        return pixels

    strangers = volume(spoiled)
    pixels = np.stack([strangers.read(index) for index in range(4)])
    found = volume_percentiles(strangers, (1, 99), lambda *_: None)
    assert found == tuple(np.percentile(pixels, (1, 99), method="inverted_cdf"))


def test_wishes_that_cannot_be_met_are_refused(volume, model):
    flat = volume(STRANGERS["constant"])
    with pytest.raises(ConfigError, match="Give one of them"):
        decide(flat, model.card, range_=(0, 1), percentiles=(0, 100))
    for range_ in ((1, 1), (2, 1), (0, float("inf")), (float("nan"), 1)):
        with pytest.raises(ConfigError, match="LOW must be below HIGH"):
            decide(flat, model.card, range_=range_)
    for percentiles in ((-1, 99), (1, 101), (50, 50)):
        with pytest.raises(ConfigError, match="0 <= LOW < HIGH <= 100"):
            decide(flat, model.card, percentiles=percentiles)
    with pytest.raises(DatasetError, match="nothing can be mapped by them"):
        decide(flat, model.card, percentiles=(1, 99))


def test_noise_of_the_training_is_no_stranger(volume, model):
    rng = np.random.default_rng(0)
    noisy = volume(lambda pixels: np.clip(pixels + rng.normal(0, 5000, pixels.shape), 0, 65535).astype(np.uint16))
    assert model.card.train.noise_fraction > 0
    assert decide(noisy, model.card).kind == "as trained"
    clean = dataclasses.replace(model.card, train=dataclasses.replace(model.card.train, noise_fraction=0.0))
    with pytest.raises(DatasetError):
        decide(noisy, clean)
