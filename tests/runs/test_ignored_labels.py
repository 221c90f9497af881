"""A cell on slices of which some pixels are labelled: what is under an ignored value is in no loss and no count."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from rank_runner import two_ranks_agree_with_one
from slice_folder import hpcseg

from hpcseg.config import DataConfig
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


def test_every_count_is_of_labelled_pixels_and_a_slice_without_any_is_not_packed(cell):
    source = open_source(cell.folder.path.parents[3] / "dataset.h5", cell.config.data)
    labels = source.read(source.split.test)[1]
    record = json.loads(cell.folder.evaluation_file.read_text())
    assert all(np.sum(point["confusion"]) == np.count_nonzero(labels != IGNORED) for point in record["points"])
    lines = [json.loads(line) for line in cell.folder.slices_file.read_text().splitlines()]
    whole = [np.count_nonzero(source.read_slice(index)[1] != IGNORED) for index in source.test_slices().tolist()]
    assert [np.sum(line["whole"]) for line in lines] == whole
    assert len(set(whole)) > 1, "or this tests nothing"
    assert not set(range(3, 25, 4)) & set(source.info.numbers.tolist()), "they have no label at all"


def test_what_stands_for_no_class_changes_no_bit_of_the_training(cell, tmp_path):
    labelled_in_part(tmp_path, stray=99)
    other = train(tmp_path, "--ignore", "99").folder
    assert other.metrics_file.read_bytes() == cell.folder.metrics_file.read_bytes()
    assert other.slices_file.read_bytes() == cell.folder.slices_file.read_bytes()


def test_two_ranks_train_and_count_as_one(cell, tmp_path):
    two_ranks_agree_with_one(cell, tmp_path)


@pytest.mark.parametrize(("corner", "missing"), [(24, "training"), (0, "")])
def test_a_set_without_a_label_in_its_tiles_is_refused_before_anything_runs(tmp_path, monkeypatch, corner, missing):
    monkeypatch.chdir(tmp_path)
    write_sample(tmp_path, slices=8, size=48, seed=0)
    for file in list((tmp_path / "labels").iterdir()):
        strokes = np.full((48, 48), 255, np.uint8)
        strokes[corner : corner + 9, :9] = np.arange(9) % 2
        tifffile.imwrite(file, strokes)
    assert hpcseg("pack", ".", "--ignore", 255).exit_code == 0
    Path("part.toml").write_text(JOB.replace('"2x2"', '"1x1"'))
    answer = hpcseg("grid", "--job", "part.toml", "--local", "--dry-run")
    if missing:
        assert answer.exit_code == 3 and f"no {missing} tile has a labelled pixel" in " ".join(answer.stderr.split())
        cover = hpcseg("grid", "--job", "part.toml", "--local", "--dry-run", "--set", "data.tiles=cover")
        assert cover.exit_code == 0, "as the message proposes"
    else:
        assert answer.exit_code == 0, answer.output


def test_a_test_set_without_a_label_is_refused_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labelled_in_part(tmp_path, stray=-1)
    assert hpcseg("pack", ".", "--ignore", -1).exit_code == 0
    Path("part.toml").write_text(JOB.replace('"2x2"', '"1x1"'))
    source = open_source(Path("dataset.h5"), DataConfig(tiles="1x1", tile_size=24, split="blocked", gap_slices=1))
    first, last = source.test_slices()[[0, -1]]
    for number, file in enumerate(sorted((tmp_path / "labels").iterdir())):
        label = tifffile.imread(file)
        if source.info.numbers[first] <= number + 1 <= source.info.numbers[last]:
            label[:24, :24] = -1
        tifffile.imwrite(file, label)
    assert hpcseg("pack", ".", "--ignore", -1, "--force").exit_code == 0
    answer = hpcseg("grid", "--job", "part.toml", "--local", "--dry-run")
    assert answer.exit_code == 3 and "no test tile has a labelled pixel" in " ".join(answer.stderr.split())
