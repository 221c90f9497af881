"""A cell on slices with a field of view: nothing outside of it is trained on or counted; names go with the counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from rank_runner import two_ranks_agree_with_one
from slice_folder import hpcseg

from hpcseg import sheet
from hpcseg.data.batches import open_source
from hpcseg.data.classes import IGNORED
from hpcseg.data.sample import write_sample
from hpcseg.data.training_tiles import TrainingTiles
from hpcseg.records.collect import collect
from hpcseg.report.build import build_report
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Cell, read_cell
from hpcseg.runs.record import read_baselines

SIZE, RADIUS = 48, 20
JOB = """
[data]
tiles = "3x3"
tile_size = 16
[train]
width = 4
depth = 1
epochs = 3
batch_size = 8
precision = "fp32"
[evaluate]
table_sigma = "10 %"
whole_slices = true
examples = true
[report]
tables = ["axes", "classes", "edges", "table2"]
figures = ["best_and_worst"]
[[grid]]
train.noise_fraction = 0.5
train.noise_sigma_max = "10 %"
"""


def inside() -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    return y**2 + x**2 < RADIUS**2


def write(folder: Path, label_outside: int) -> None:
    write_sample(folder, slices=14, size=SIZE, seed=0)
    for file in (folder / "data").iterdir():
        tifffile.imwrite(file, np.where(inside(), tifffile.imread(file), np.nan).astype(np.float32))
    for file in (folder / "labels").iterdir():
        tifffile.imwrite(file, np.where(inside(), tifffile.imread(file), np.uint8(label_outside)))


@pytest.fixture(scope="module")
def cell(tmp_path_factory) -> Cell:
    folder = tmp_path_factory.mktemp("outside")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write(folder, 77)
        Path("round.toml").write_text(JOB)
        assert hpcseg("pack", ".", "--classes", "0=pore,128=$8}$,255=Ni").exit_code == 0
        result = hpcseg("train", "*", "--job", "round.toml")
        assert result.exit_code == 0, result.output
        result = hpcseg("report")
        assert result.exit_code == 0, result.output
    (found,) = RunFolder(folder / "runs" / "round").cell_folders()
    return read_cell(found)


@pytest.fixture(scope="module")
def source(cell):
    return open_source(cell.folder.path.parents[3] / "dataset.h5", cell.config.data)


def test_every_count_is_of_the_pixels_inside(cell, source):
    record = json.loads(cell.folder.evaluation_file.read_text())
    labels = source.read(source.split.test)[1]
    pixels = np.count_nonzero(labels != IGNORED)
    assert 0 < pixels < labels.size
    assert all(np.sum(point["confusion"]) == pixels for point in record["points"])
    lines = [json.loads(line) for line in cell.folder.slices_file.read_text().splitlines()]
    assert sum(line["pixels"] for line in lines) == pixels
    assert all(np.sum(line["whole"]) == np.count_nonzero(inside()) for line in lines)
    training = json.loads(cell.folder.training_file.read_text())
    validation = source.read(source.split.validation)[1]
    assert np.sum(training["validation_confusion"]) == np.count_nonzero(validation != IGNORED)


def test_interfaces_and_edges_are_between_classes_alone(cell, source):
    record = json.loads(cell.folder.evaluation_file.read_text())
    labels = source.read(source.split.test)[1].astype(int)
    neighbours = [(labels[:, :-1], labels[:, 1:]), (labels[:, :, :-1], labels[:, :, 1:])]
    known = [(one != other) & (one != IGNORED) & (other != IGNORED) for one, other in neighbours]
    assert np.sum(np.triu(record["label_interfaces"], 1)) == sum(map(np.count_nonzero, known))
    near = np.zeros(labels.shape, dtype=bool)
    for axis, edges in zip((1, 2), known, strict=True):
        first, second = ([slice(None)] * 3 for _ in range(2))
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        near[tuple(first)] |= edges
        near[tuple(second)] |= edges
    assert np.sum(record["points"][0]["near_edge"]["1"]) == np.count_nonzero(near)


def test_a_tile_without_a_labelled_pixel_is_not_trained_on(cell, source):
    import torch

    rows = source.split.train
    labels = source.read(rows)[1]
    labelled = (labels != IGNORED).any((1, 2))
    tiles = TrainingTiles(source, rows, cell.config.train, torch.device("cpu"))
    assert len(tiles) == np.count_nonzero(labelled)
    assert tiles.pixels == np.count_nonzero(labels != IGNORED)


def test_the_accuracy_of_an_epoch_is_a_share_of_the_pixels_inside(cell, source):
    pixels = np.count_nonzero(source.read(source.split.train)[1] != IGNORED)
    right = [json.loads(line)["train_accuracy"] * pixels for line in cell.folder.metrics_file.read_text().splitlines()]
    # Whole numbers up to the rounding of float64; of another number of pixels, three would hardly be.
    np.testing.assert_allclose(right, np.rint(right), atol=1e-6)


def test_the_label_outside_changes_no_bit_of_the_training(cell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, 128)
    Path("round.toml").write_text(JOB)
    assert hpcseg("pack", ".").exit_code == 0
    assert hpcseg("train", "*", "--job", "round.toml").exit_code == 0
    (again,) = RunFolder(tmp_path / "runs" / "round").cell_folders()
    assert again.id == cell.id
    assert again.metrics_file.read_bytes() == cell.folder.metrics_file.read_bytes()
    assert again.slices_file.read_bytes() == cell.folder.slices_file.read_bytes()


def test_two_ranks_train_and_count_as_one(cell, tmp_path):
    two_ranks_agree_with_one(cell, tmp_path)


def test_what_needs_no_network_is_counted_on_the_same_pixels(cell):
    run = RunFolder(cell.folder.path.parents[1])
    (baseline,) = read_baselines(run)
    record = json.loads(cell.folder.evaluation_file.read_text())
    for point in baseline.points:
        assert np.sum(point.confusion, axis=1).tolist() == np.sum(record["points"][0]["confusion"], axis=1).tolist()


def test_the_pictures_show_no_error_outside(cell):
    pictures = collect(RunFolder(cell.folder.path.parents[1])).rows[0].pictures(extremes=True)
    assert (pictures["labels"][:, ~inside()] == IGNORED).all()
    assert not pictures["errors"][:, ~inside()].any() and np.isfinite(pictures["images"]).all()


def test_classes_have_their_names_in_records_and_report(cell, tmp_path):
    assert json.loads(cell.folder.evaluation_file.read_text())["class_names"] == ["pore", "$8}$", "Ni"]
    build_report(RunFolder(cell.folder.path.parents[1]), tmp_path)
    text = (tmp_path / "tables.md").read_text()
    assert all(f"3x3, shuffled split, class {name}\n" in text for name in ("pore", "$8}$", "Ni"))
    assert "labels: $8}$" in text and "class 128" not in text


def test_predict_finds_what_the_evaluation_found_and_writes_a_value_of_choice_outside(cell, tmp_path):
    folder = cell.folder.path.parents[3]
    options = ("--data", folder / "dataset.h5", "--outside", 9, "--uncertainty")
    said = hpcseg("predict", cell.folder.path, folder / "data", "-o", tmp_path / "out", *options)
    assert said.exit_code == 0, said.output
    assert "pore: " in said.stdout
    whole = {line["slice"]: line["whole"] for line in map(json.loads, cell.folder.slices_file.read_text().splitlines())}
    for number, confusion in whole.items():
        labels = tifffile.imread(tmp_path / "out" / "labels" / f"sample{number:04d}.tiff")
        assert (labels[~inside()] == 9).all()
        found = [np.count_nonzero(labels[inside()] == value) for value in (0, 128, 255)]
        assert found == np.sum(confusion, axis=0).tolist()
        unknown = tifffile.imread(tmp_path / "out" / "uncertainty" / f"sample{number:04d}.tiff")
        assert (unknown[~inside()] == 255).all()
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert sum(record["pixels"].values()) == 14 * np.count_nonzero(inside())
    assert list(record["fractions"]) == ["pore", "$8}$", "Ni"] and sum(record["fractions"].values()) == pytest.approx(1)
    assert "slice,pixels,fraction_pore,fraction_$8}$,fraction_Ni" in (tmp_path / "out" / "fractions.csv").read_text()
    refused = hpcseg(
        "predict", cell.folder.path, folder / "data", "-o", tmp_path / "no", *options[:2], "--outside", 256
    )
    assert refused.exit_code == 2 and "give a value of 0 to 255" in refused.stderr


def test_an_exported_model_keeps_the_names(cell, tmp_path):
    folder, file = cell.folder.path.parents[3], tmp_path / "model.safetensors"
    said = hpcseg("export", cell.folder.path, "-o", file, "--data", folder / "dataset.h5")
    assert "classes pore (0), $8}$ (128), Ni (255)" in said.stdout
    out = tmp_path / "out"
    assert hpcseg("predict", file, folder / "data", "-o", out).exit_code == 0
    assert list(json.loads((out / "prediction.json").read_text())["fractions"]) == ["pore", "$8}$", "Ni"]


def test_the_sheet_of_a_prediction_paints_no_class_where_nothing_was_measured(cell, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("hpcseg.predict.contact_sheet.sheet.draw", lambda *of: drawn.append(of) or b"")
    volume = cell.folder.path.parents[3] / "data"
    for value in (0, 77, 255):
        answer = hpcseg("predict", cell.folder.path, volume, "-o", tmp_path / str(value), "--outside", value)
        assert answer.exit_code == 0, answer.output
    for seen, classes, _ in drawn:
        step = sheet.step(SIZE, SIZE)
        for one in seen:
            assert (one.classes == IGNORED).tolist() == (~inside()[::step, ::step]).tolist()
        assert [text.partition(":")[0] for text in classes] == ["pore (0)", "$8}$ (128)", "Ni (255)"]
