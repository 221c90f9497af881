"""A model that was trained on crops segments whole real slices of 501 x 501, from any container."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from slice_folder import hpcseg

from hpcseg.data.pack import pack
from hpcseg.data.store import read_info
from hpcseg.jobfile import load_job
from hpcseg.predict.model_file import export, open_cell, open_file
from hpcseg.runs.execute import run_cell
from hpcseg.runs.folder import CellFolder, RunFolder
from hpcseg.runs.grid import plan, write_plan
from hpcseg.runs.record import read_lines

pytestmark = pytest.mark.realdata
VALUES = (0, 128, 255)
RESULTS = Path(__file__).parents[2] / "results"
JOB = """
[train]
width = 8
depth = 2
epochs = 2
batch_size = 2
precision = "auto"
noise_fraction = 0.25
[evaluate]
whole_slices = true
[[grid]]
data.tiles = "small"
"""


def image(folder: Path, number: int) -> Path:
    return folder / f"SOCprist{number:04d}.tiff"


def label(folder: Path, number: int) -> Path:
    return folder / f"slice__{number:03d}.tif"


def linked(files: Iterable[Path], folder: Path) -> Path:
    """A new folder with links to files."""
    folder.mkdir()
    for file in files:
        (folder / file.name).symlink_to(file.resolve())
    return folder


def found_and_true(model: Path, soc: Path, numbers: Sequence[int], folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each slice the labels that `hpcseg predict` writes into FOLDER/out, and those of the hand."""
    slices = linked((image(soc / "data", number) for number in numbers), folder / "in")
    answer = hpcseg("predict", model, slices, "-o", folder / "out")
    assert answer.exit_code == 0, answer.output
    files = [(image(folder / "out" / "labels", number), label(soc / "labels", number)) for number in numbers]
    return [(tifffile.imread(found), tifffile.imread(true)) for found, true in files]


@pytest.fixture(scope="module")
def real_cell(soc, tmp_path_factory) -> CellFolder:
    """Trained for seconds on the upper left corner of every fifth slice, in what this machine multiplies in."""
    folder = tmp_path_factory.mktemp("real")
    numbers = range(5, 501, 5)
    images = linked((image(soc / "data", number) for number in numbers), folder / "data")
    labels = linked((label(soc / "labels", number) for number in numbers), folder / "labels")
    dataset = folder / "fifth.h5"
    pack(images, labels, dataset, command="test")
    (folder / "job.toml").write_text(JOB)
    run = RunFolder(folder / "run")
    grid = plan(load_job(folder / "job.toml"), run, dataset, read_info(dataset).data_sha256)
    write_plan(grid)
    for stage in ("train", "evaluate"):
        assert run_cell(grid.cells[0].folder, stage, should_stop=lambda: False) == "finished"
    return grid.cells[0].folder


@pytest.fixture(scope="module")
def real_model(real_cell, tmp_path_factory):
    """The model file of `real_cell`."""
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    export(open_cell(real_cell), file)
    return file


def test_predicting_test_slices_gives_the_matrices_of_the_record_to_the_pixel(real_cell, real_model, soc, tmp_path):
    expected = {line["slice"]: line["whole"] for line in read_lines(real_cell.slices_file)}
    numbers = sorted(expected)[::2]
    assert len(numbers) > 5
    for number, (found, true) in zip(numbers, found_and_true(real_model, soc, numbers, tmp_path), strict=True):
        matrix = [[int(((true == row) & (found == column)).sum()) for column in VALUES] for row in VALUES]
        assert matrix == expected[number]


def test_whole_slices_are_segmented_as_the_hand_did_it(real_model, soc, tmp_path):
    right = []
    for found, true in found_and_true(real_model, soc, (30, 250, 470), tmp_path):
        assert (found.shape, found.dtype) == ((501, 501), np.uint8)
        right.append((found == true).mean())
    # Two thirds is what the two larger classes alone would give; 15 epochs at width 16 give 0.986.
    assert np.mean(right) > 0.9, right
    fractions = json.loads((tmp_path / "out" / "prediction.json").read_text())["fractions"]
    # 29.5, 43.4 and 27.2 per cent in the labels of all slices.
    assert [fractions[value] for value in ("0", "128", "255")] == pytest.approx([0.295, 0.434, 0.272], abs=0.08)


def test_the_packbits_originals_keep_their_resolution_and_have_the_same_labels(real_model, soc, soc_original, tmp_path):
    names = sorted(path.name for path in (soc_original / "data").iterdir())[:2]
    for kind, folder in (("original", soc_original), ("soc", soc)):
        slices = linked((folder / "data" / name for name in names), tmp_path / kind)
        command = ("predict", real_model, slices, "-o", tmp_path / f"{kind}-out", "--precision", "fp32")
        assert hpcseg(*command).exit_code == 0
    for name in names:
        with tifffile.TiffFile(tmp_path / "original-out" / "labels" / name) as tif:
            tags = tif.pages.first.tags
            assert tags["XResolution"].value == tags["YResolution"].value == (72, 1)
            assert tags["ResolutionUnit"].value == 2
            labels = tif.asarray()
        np.testing.assert_array_equal(labels, tifffile.imread(tmp_path / "soc-out" / "labels" / name))


def test_eight_bit_copies_are_mapped_back(real_model, soc, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "same").mkdir()
    name = "SOCprist0250.tiff"
    pixels = tifffile.imread(soc / "data" / name)
    tifffile.imwrite(tmp_path / "same" / name, pixels)
    tifffile.imwrite(tmp_path / "in" / name, np.rint(pixels / 257).astype(np.uint8))
    refused = hpcseg("predict", real_model, tmp_path / "in", "-o", tmp_path / "none")
    assert refused.exit_code == 3 and "uint8 grey values, but the model was trained on uint16" in refused.output
    assert hpcseg("predict", real_model, tmp_path / "same", "-o", tmp_path / "wanted").exit_code == 0
    wanted = tifffile.imread(tmp_path / "wanted" / "labels" / name)
    # The scale of the conversion is known; or it is not, and the histogram of the one slice has to do.
    for options, agreement in ((("--range", 0, 255), 0.99), (("--percentiles", 0.5, 99.5), 0.95)):
        out = tmp_path / options[0].strip("-")
        assert hpcseg("predict", real_model, tmp_path / "in", "-o", out, *options).exit_code == 0
        assert (tifffile.imread(out / "labels" / name) == wanted).mean() > agreement


def test_the_committed_model_segments_test_slices_as_the_record_of_its_evaluation_says(soc, tmp_path):
    [model] = (RESULTS / "predict").glob("*.safetensors")
    cell = CellFolder(RESULTS / "seeds" / "cells" / open_file(model).name)
    expected = {line["slice"]: line["whole"] for line in read_lines(cell.slices_file)}
    numbers = sorted(expected)[::10]
    right = [np.mean(found == true) for found, true in found_and_true(model, soc, numbers, tmp_path)]
    recorded = [np.trace(expected[number]) / np.sum(expected[number]) for number in numbers]
    # Another processor rounds otherwise.
    assert len(numbers) > 5 and right == pytest.approx(recorded, abs=0.0005)
