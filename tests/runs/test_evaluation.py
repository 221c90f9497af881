"""What an evaluation writes: every noise level, what each slice contributed, whole slices, and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from slice_folder import hpcseg

from hpcseg.config import DataConfig
from hpcseg.data.batches import open_source
from hpcseg.data.pack import pack
from hpcseg.data.sample import write_sample
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Cell, read_cell
from hpcseg.runs.inputs import load_model

JOB = """
[data]
tiles = "2x2"
tile_size = 24
split = "blocked"
[train]
width = 2
depth = 2
epochs = 2
noise_fraction = 0.5
noise_model = "gaussian+salt-and-pepper"
noise_each_epoch = true
augment = "symmetries"
precision = "fp32"
[evaluate]
sweep_max = 2000
other_noise = "uniform+poisson+salt-and-pepper"
mixed_fraction = 0.5
whole_slices = true
examples = true
"""
KEYS = ["gaussian-0", "gaussian-5000", "uniform-5000", "poisson-5000", "salt-and-pepper-5000", "gaussian-10000-p0.5"]


@pytest.fixture(scope="module")
def cell(tmp_path_factory) -> Cell:
    """A cell that was trained and evaluated with everything there is."""
    folder = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("all.toml").write_text(JOB)
        write_sample(folder, slices=24, size=50, seed=0)
        pack(Path("data"), Path("labels"), Path("dataset.h5"), command="test")
        result = hpcseg("train", "*", "--job", "all.toml")
        assert result.exit_code == 0, result.output
    (found,) = RunFolder(folder / "runs" / "all").cell_folders()
    return read_cell(found)


@pytest.fixture(scope="module")
def source(cell):
    config = json.loads(cell.folder.config_file.read_text())
    return open_source(cell.folder.path / config["data_file"], DataConfig(**config["data"]))


def arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as content:
        return dict(content)


def test_every_level_counts_every_test_pixel(cell, source):
    record = json.loads(cell.folder.evaluation_file.read_text())
    pixels = len(source.split.test) * 24 * 24
    assert [(point["noise"], point["sigma"], point["fraction"]) for point in record["points"]] == [
        *(("gaussian", float(sigma), None) for sigma in (0, 1000, 2000, 5000)),
        *((model, 5000.0, None) for model in ("uniform", "poisson", "salt-and-pepper")),
        ("gaussian", 10_000.0, 0.5),
    ]
    assert all(np.sum(point["confusion"]) == pixels for point in record["points"])


def test_the_slices_add_up_to_the_points_at_every_level_that_tables_show(cell, source):
    lines = [json.loads(line) for line in cell.folder.slices_file.read_text().splitlines()]
    assert [line["slice"] for line in lines] == source.info.numbers[source.test_slices()].tolist()
    assert all(line["pixels"] == 4 * 24 * 24 and list(line["right"]) == KEYS for line in lines)
    record = json.loads(cell.folder.evaluation_file.read_text())
    shown = [point for point in record["points"] if point["sigma"] not in (1000, 2000)]
    for key, point in zip(KEYS, shown, strict=True):
        assert sum(line["right"][key] for line in lines) == np.trace(point["confusion"])


def test_whole_slices_are_segmented_with_mirrored_margins_to_their_last_pixel(cell, source):
    lines = [json.loads(line) for line in cell.folder.slices_file.read_text().splitlines()]
    model, _ = load_model(cell, source.classes)
    model.eval()
    for line, index in zip(lines, source.test_slices().tolist(), strict=True):
        counts, labels = source.read_slice(index)
        with torch.inference_mode():
            # Four pixels at each edge, and two more below and right to a multiple of 2**2.
            image = np.pad((counts / 65_535).astype(np.float32), ((4, 6), (4, 6)), mode="reflect")
            predicted = model(torch.from_numpy(image)[None, None])[0].argmax(0).numpy()[4:-6, 4:-6]
        expected = np.zeros((3, 3), dtype=np.int64)
        np.add.at(expected, (labels, predicted), 1)
        # Folding batch normalisation in may turn a pixel whose two best scores are equal to six digits.
        assert np.abs(np.array(line["whole"]) - expected).sum() <= 2 * 1e-3 * expected.sum()
        assert np.sum(line["whole"]) == 50 * 50


def test_the_pictures_are_test_tiles_and_a_test_slice_with_their_predictions(cell, source):
    pictures = np.load(cell.folder.examples_file)
    assert pictures["tiles"].shape == pictures["tile_labels"].shape == (3, 24, 24)
    assert pictures["tile_predictions"].shape == (2, 3, 24, 24)
    tests = {tuple(key) for key in source.read(source.split.test)[2].tolist()}
    assert {tuple(key) for key in pictures["tile_keys"].tolist()} <= tests
    index = source.info.numbers.tolist().index(int(pictures["slice_number"]))
    counts, labels = source.read_slice(index)
    np.testing.assert_array_equal(pictures["slice"], counts)
    np.testing.assert_array_equal(pictures["slice_label"], labels)
    whole = {line["slice"]: line["whole"] for line in map(json.loads, cell.folder.slices_file.read_text().splitlines())}
    right = np.trace(whole[int(pictures["slice_number"])])
    assert (pictures["slice_prediction"] == labels).sum() == right


def test_the_best_and_the_worst_test_slice_are_kept_with_their_errors(cell, source):
    pictures = arrays(cell.folder.extremes_file)
    lines = [json.loads(line) for line in cell.folder.slices_file.read_text().splitlines()]
    right = {line["slice"]: np.trace(line["whole"]) / (50 * 50) for line in lines}
    assert [right[int(number)] for number in pictures["numbers"]] == [max(right.values()), min(right.values())]
    np.testing.assert_allclose(pictures["shares"], [max(right.values()), min(right.values())])
    np.testing.assert_allclose(1 - pictures["errors"].mean((1, 2), dtype=np.float64), pictures["shares"])
    np.testing.assert_array_equal(pictures["errors"], pictures["labels"] != pictures["predictions"])
    for number, image in zip(pictures["numbers"].tolist(), pictures["images"], strict=True):
        np.testing.assert_array_equal(image, source.read_slice(source.info.numbers.tolist().index(number))[0])


def test_the_pictures_of_large_slices_are_made_smaller_and_keep_all_errors(cell, tmp_path, monkeypatch):
    whole = arrays(cell.folder.extremes_file)
    monkeypatch.setattr("hpcseg.runs.evaluation._PICTURE_EDGE", 20)
    monkeypatch.chdir(cell.folder.path.parents[3])
    cell.folder.evaluation_file.unlink()
    assert hpcseg("train", "*", "--job", "all.toml").exit_code == 0
    small = arrays(cell.folder.extremes_file)
    # Blocks of 3 x 3 pixels: 17 of them over 50, the last with two rows or columns.
    assert small["images"].shape == small["labels"].shape == (2, 17, 17)
    sizes = np.array([3] * 16 + [2])
    weights = np.outer(sizes, sizes)
    found = (small["errors"].astype(np.float64) * weights).sum((1, 2))
    # Of float16, with 11 digits, at most 1 in 2048 of each block's 9 pixels is lost.
    np.testing.assert_allclose(found, whole["errors"].sum((1, 2), dtype=np.float64), rtol=1 / 2048)


def test_an_evaluation_without_pictures_takes_old_ones_away_and_trains_nothing_again(cell, monkeypatch):
    monkeypatch.chdir(cell.folder.path.parents[3])
    weights, trained = cell.folder.model_file.read_bytes(), cell.folder.training_file.read_bytes()
    Path("all.toml").write_text(JOB.replace("examples = true", "examples = false"))
    result = hpcseg("train", "*", "--job", "all.toml")
    assert result.exit_code == 0, result.output
    assert not cell.folder.examples_file.exists()
    assert read_cell(cell.folder).evaluated()
    assert (cell.folder.model_file.read_bytes(), cell.folder.training_file.read_bytes()) == (weights, trained)
