"""A cell on slices of which some pixels are labelled: what is under an ignored value is in no loss and no count."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from rank_runner import two_ranks_agree_with_one
from slice_folder import hpcseg

from hpcseg.data.batches import open_source
from hpcseg.data.classes import IGNORED
from hpcseg.data.sample import write_sample
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import read_cell

JOB = """
[data]
tiles = "2x2"
tile_size = 24
split = "blocked"
gap_slices = 1
[train]
width = 4
depth = 1
epochs = 2
batch_size = 5
precision = "fp32"
[evaluate]
table_sigma = "10 %"
whole_slices = true
[report]
tables = ["axes", "classes", "edges", "table2"]
figures = ["best_and_worst"]
[[grid]]
train.seed = 0
"""


def labelled_in_part(folder: Path, *, stray: int) -> None:
    """48 x 48 pixels; the left half of odd slices has no label, and every fourth has none at all."""
    write_sample(folder, slices=24, size=48, seed=0)
    for number, file in enumerate(sorted((folder / "labels").iterdir())):
        label = tifffile.imread(file).astype(np.int16)
        if number % 2:
            label[:, :24] = stray
        if number % 4 == 2:
            label[:] = stray
        tifffile.imwrite(file, label)


def train(folder: Path, *options: str):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("part.toml").write_text(JOB)
        result = hpcseg("pack", ".", *options)
        assert result.exit_code == 0, result.output
        result = hpcseg("train", "*", "--job", "part.toml")
        assert result.exit_code == 0, result.output
        result = hpcseg("report")
        assert result.exit_code == 0, result.output
    (found,) = RunFolder(folder / "runs" / "part").cell_folders()
    return read_cell(found)


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    folder = tmp_path_factory.mktemp("part")
    labelled_in_part(folder, stray=-1)
    return train(folder, "--ignore", "-1")


def test_every_count_is_of_labelled_pixels_and_a_slice_without_any_has_none(cell):
    source = open_source(cell.folder.path.parents[3] / "dataset.h5", cell.config.data)
    labels = source.read(source.split.test)[1]
    record = json.loads(cell.folder.evaluation_file.read_text())
    assert all(np.sum(point["confusion"]) == np.count_nonzero(labels != IGNORED) for point in record["points"])
    lines = [json.loads(line) for line in cell.folder.slices_file.read_text().splitlines()]
    whole = [np.count_nonzero(source.read_slice(index)[1] != IGNORED) for index in source.test_slices().tolist()]
    assert [np.sum(line["whole"]) for line in lines] == whole
    assert 0 in whole, "or this tests nothing"


def test_what_stands_for_no_class_changes_no_bit_of_the_training(cell, tmp_path):
    labelled_in_part(tmp_path, stray=99)
    other = train(tmp_path, "--ignore", "99").folder
    assert other.metrics_file.read_bytes() == cell.folder.metrics_file.read_bytes()
    assert other.slices_file.read_bytes() == cell.folder.slices_file.read_bytes()


def test_two_ranks_train_and_count_as_one(cell, tmp_path):
    two_ranks_agree_with_one(cell, tmp_path)
