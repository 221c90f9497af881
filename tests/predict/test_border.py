"""Padding of one value round the slices: in the training, in grey values that are mapped by, and in a prediction."""

from __future__ import annotations

import dataclasses
import json
import warnings

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

import hpcseg.api as hs
from hpcseg.cli.app import app
from hpcseg.data.border import border_of
from hpcseg.data.store import read_info
from hpcseg.predict.card import grey_quantiles
from hpcseg.predict.mapping import decide
from hpcseg.predict.model_file import Model, export, open_file
from hpcseg.predict.volume import open_volume


def circle(edge: int) -> np.ndarray:
    """(edge, edge) bool, what a reconstruction has inside of its round field of view."""
    y, x = np.mgrid[:edge, :edge] - (edge - 1) / 2
    return y**2 + x**2 < (edge / 2) ** 2


@pytest.fixture
def scan(tiny_folder) -> np.ndarray:
    """(3, 128, 128) uint16, slices of the sample in a circle, with 0 round it."""
    slices = [tifffile.imread(tiny_folder / "data" / f"sample{number:04d}.tiff")[:128, :128] for number in (3, 6, 9)]
    return np.where(circle(128), slices, 0).astype(np.uint16)


def learnt(model: Model, border: str | None) -> Model:
    """The model as of a training whose slices have such borders."""
    return dataclasses.replace(model, card=dataclasses.replace(model.card, border=border))


@pytest.mark.parametrize(
    ("learnt_from", "asked", "is_out"),
    [
        ("ignored", None, True),
        ("ignored", "label", False),
        ("labelled", None, False),
        ("labelled", "outside", True),
        ("none", None, False),
        (None, None, False),
        (None, "outside", True),
    ],
)
def test_a_border_is_left_out_where_its_labels_are_or_somebody_says_so(model, scan, learnt_from, asked, is_out):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        labels, unsure = hs.predict(learnt(model, learnt_from), scan, border=asked, outside=7, uncertainty=True)
    everywhere = hs.predict(learnt(model, "labelled"), scan)
    inside = np.broadcast_to(circle(128), scan.shape)
    assert np.array_equal(labels[inside], everywhere[inside])
    assert np.array_equal(labels == 7, ~inside) if is_out else np.array_equal(labels, everywhere)
    assert (unsure[~inside] == 255).all() == is_out
    notes = [str(one.message) for one in told if "a border of one value" in str(one.message)]
    assert bool(notes) == (asked != "label" and not (learnt_from == "labelled" and not asked))
    assert all(("is in no fraction" in note) == is_out for note in notes)


@pytest.mark.parametrize("learnt_from", ["labelled", "none"])
def test_the_value_of_a_border_is_strange_unless_it_was_trained_on(model, scan, learnt_from):
    clean = dataclasses.replace(model.card, train=dataclasses.replace(model.card.train, noise_fraction=0.0))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        hs.predict(learnt(dataclasses.replace(model, card=clean), learnt_from), scan)
    strange = [one for one in told if "More than 1 % of the grey values" in str(one.message)]
    assert bool(strange) == (learnt_from == "none")


def test_the_command_writes_what_it_left_out_and_goes_on_with_it(model, scan, tmp_path):
    export(learnt(model, "ignored"), tmp_path / "model.safetensors")
    for number, pixels in enumerate(scan, start=1):
        (tmp_path / "scan").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / f"scan/s{number}.tif", pixels)
    command = ["predict", str(tmp_path / "model.safetensors"), str(tmp_path / "scan"), "-o", str(tmp_path / "out")]
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 0, said.output
    assert "round 3 of the 3 slices that were looked at lies a border of one value, 21" in said.stderr
    record = json.loads((tmp_path / "out/prediction.json").read_text())
    assert record["asked"]["border"] == "outside" and open_file(tmp_path / "model.safetensors").card.border == "ignored"
    assert sum(record["pixels"].values()) == 3 * int(circle(128).sum())
    lines = (tmp_path / "out/fractions.csv").read_text().splitlines()
    assert str(int(circle(128).sum())) in lines[1]
    assert CliRunner().invoke(app, command).exit_code == 0, "the same once more"
    other = CliRunner().invoke(app, [*command, "--border", "label"])
    assert other.exit_code == 2 and "border (outside, now label)" in other.stderr.replace('"', "")


def test_another_offset_is_seen_and_undone_though_both_scans_have_zeros_round_them(model, scan, tmp_path):
    def volume(name: str, slices: np.ndarray):
        (tmp_path / name).mkdir()
        for number, pixels in enumerate(slices, start=1):
            tifffile.imwrite(tmp_path / name / f"s{number}.tif", pixels)
        return open_volume(tmp_path / name)

    card = learnt(model, "ignored").card
    scale, offset = 0.5, 12_000
    brighter = np.where(circle(128), scale * scan + offset, 0).astype(np.uint16)
    notes: list[str] = []
    decide(volume("as it is", brighter), card, border="outside", on_note=notes.append)
    assert any("another exposure" in note for note in notes)
    found = decide(volume("mapped", brighter), card, percentiles=(1, 99), border="outside")
    assert found.found == pytest.approx(np.percentile(brighter[:, circle(128)], (1, 99)), rel=0.01)
    # A file of before has the quantiles of slices with their borders, and is compared with such.
    old = decide(volume("old", brighter), dataclasses.replace(card, border=None), percentiles=(1, 99))
    assert old.found[0] == 0


@pytest.mark.parametrize("labelled", [True, False])
def test_what_the_trainings_border_is_comes_from_its_labels(tmp_path, tiny_folder, labelled):
    for kind, round_it in (("data", 0), ("labels", 0 if labelled else 77)):
        (tmp_path / "DATA" / kind).mkdir(parents=True)
        for file in sorted((tiny_folder / kind).iterdir()):
            pixels = tifffile.imread(file)
            inside = circle(pixels.shape[0])[:, : pixels.shape[1]]
            tifffile.imwrite(
                tmp_path / "DATA" / kind / file.name, np.where(inside, pixels, round_it).astype(pixels.dtype)
            )
    packed, notes = tmp_path / "packed.h5", list[str]()
    hs.pack(tmp_path / "DATA", packed, ignore=() if labelled else 77, on_note=notes.append)
    info = read_info(packed)
    assert border_of(info) == ("labelled" if labelled else "ignored")
    (note,) = [one for one in notes if "a border of one value" in one]
    assert ("--ignore" in note) == labelled and ("leaves it out of the fractions" in note) != labelled
    # The dark end is that of the sample, and not of what lies round it.
    assert grey_quantiles(info)[10] > 0.9 * info.grey.quantiles[0] > 0


@pytest.mark.parametrize("on_border", [True, False])
def test_a_border_of_which_strokes_are_labelled_is_learnt_from_as_all_else_is(tmp_path, tiny_folder, on_border):
    """A hundredth of the pixels has a label: of the border about as much, or one pixel."""
    for file in sorted((tiny_folder / "data").iterdir()):
        pixels = tifffile.imread(file)
        inside = circle(128)
        label = np.full((128, 128), 77, np.uint8)
        label[64, 40:90], label[80, 30:90] = 1, 2
        if on_border:
            label[:5, :5] = label[-5:, -5:] = 3
        else:
            label[20, 16] = 1  # beside which the circle begins
        for kind, stored in (("data", np.where(inside, pixels, 0).astype(pixels.dtype)), ("labels", label)):
            (tmp_path / "DATA" / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / "DATA" / kind / file.name, stored)
    notes = list[str]()
    hs.pack(tmp_path / "DATA", tmp_path / "packed.h5", ignore=77, on_note=notes.append)
    assert border_of(read_info(tmp_path / "packed.h5")) == ("labelled" if on_border else "ignored")
    (note,) = [one for one in notes if "a border of one value" in one]
    assert ("models are trained and tested on it" in note) == on_border


def test_slices_without_borders_have_none(tiny_dataset):
    assert border_of(read_info(tiny_dataset)) == "none"
