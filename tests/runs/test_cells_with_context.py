"""Cells that see neighbouring slices: on several ranks, in their evaluation, and beside a filter that sees none."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from finished_cells import finished_run
from rank_runner import run_cell_stage, run_ranks

from hpcseg.config import CellConfig, DataConfig, EvaluateConfig
from hpcseg.data.batches import TileSource, open_source
from hpcseg.runs.baseline import make_baselines
from hpcseg.runs.execute import run_cell
from hpcseg.runs.finding import plan_run
from hpcseg.runs.grid import Cell, write_plan
from hpcseg.runs.inputs import load_model
from hpcseg.runs.record import read_baselines, read_json, read_lines

_JOB = """
[data]
tile_size = 64
tiles = "2x2"
split = "blocked"
gap_slices = 1
context = 1
[train]
width = 4
depth = 2
epochs = 2
batch_size = 7
noise_fraction = 0.5
precision = "fp32"
[evaluate]
sweep_max = 2000
other_noise = "poisson"
mixed_fraction = 0.5
whole_slices = true
examples = true
[needs]
gpus = 0
[[grid]]
train.seed = 0
"""


def planned(folder: Path, dataset: Path) -> Cell:
    (folder / "job.toml").write_text(_JOB)
    grid = plan_run(str(folder / "job.toml"), dataset, folder / "run", ())
    write_plan(grid)
    return grid.cells[0]


@pytest.fixture(scope="module")
def cells(tiny_dataset, tmp_path_factory) -> dict[int, Cell]:
    """Trained by so many ranks."""
    trained = {}
    for ranks in (1, 2):
        trained[ranks] = planned(tmp_path_factory.mktemp(f"ranks{ranks}"), tiny_dataset)
        assert set(run_ranks(ranks, run_cell_stage, trained[ranks].folder.path, "train")) == {"finished"}
    return trained


@pytest.fixture(scope="module")
def source(tiny_dataset, cells) -> TileSource:
    return open_source(tiny_dataset, cells[1].config.data)


@pytest.fixture(scope="module")
def evaluated(cells) -> Cell:
    assert run_cell(cells[1].folder, "evaluate", should_stop=lambda: False) == "finished"
    return cells[1]


def test_two_ranks_train_to_the_same_losses_to_rounding(cells):
    ones, twos = (read_lines(cells[ranks].folder.metrics_file) for ranks in (1, 2))
    for one, two in zip(ones, twos, strict=True):
        # fp32 has 24 bits; 6 steps of Adam stay within a few hundred units of rounding.
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_stopped_training_ends_in_the_same_bits(cells, tmp_path, tiny_dataset, steps):
    cell, asked = planned(tmp_path, tiny_dataset), itertools.count()
    assert run_cell(cell.folder, "train", should_stop=lambda: next(asked) == steps) == "stopped"
    assert cell.folder.checkpoint_file.exists() and not cell.folder.training_file.exists()
    assert run_cell(cell.folder, "train", should_stop=lambda: False) == "finished"
    hashes = [read_json(one.folder.training_file)["model_sha256"] for one in (cells[1], cell)]
    assert hashes[0] == hashes[1]
    assert read_lines(cell.folder.metrics_file) == read_lines(cells[1].folder.metrics_file)


def test_two_ranks_count_the_same_pixels_of_the_same_model(cells, evaluated, tmp_path, tiny_dataset):
    cell = planned(tmp_path, tiny_dataset)
    for file in ("model_file", "training_file"):
        getattr(cell.folder, file).write_bytes(getattr(evaluated.folder, file).read_bytes())
    assert set(run_ranks(2, run_cell_stage, cell.folder.path, "evaluate")) == {"finished"}
    records = [json.loads(one.folder.evaluation_file.read_text()) for one in (evaluated, cell)]
    for name in ("points", "label_interfaces", "slices_sha256", "pictures_sha256"):
        assert records[0][name] == records[1][name]


def test_the_records_say_what_the_network_takes_and_how_far_apart_the_sets_are(cells, evaluated):
    assert evaluated.config.name() == "2x2-blocked-p050-w4-s0-tile-size-64-gap-slices-1-context-1-depth-2-epochs-2-" + (
        "batch-size-7-precision-fp32"
    )
    assert load_model(evaluated, 3)[0].down[0][0].weight.shape == (4, 3, 3, 3)
    training = json.loads(evaluated.folder.training_file.read_text())
    # One slice between what two sets see; two more between the middles on each side.
    assert (training["gap_slices"], training["train_tiles"]) == (3, 20)


def test_a_whole_test_slice_is_segmented_with_its_neighbours(evaluated, source):
    (line,) = read_lines(evaluated.folder.slices_file)
    model, _ = load_model(evaluated, source.classes)
    (index,) = source.test_slices().tolist()
    assert 0 < index < 15, "both neighbours are there"
    counts = np.stack([source.read_slice(other)[0] for other in (index - 1, index, index + 1)])
    image = np.pad((counts / 65_535).astype(np.float32), ((0, 0), (4, 4), (4, 4)), mode="reflect")
    with torch.inference_mode():
        predicted = model.eval()(torch.from_numpy(image)[None])[0].argmax(0).numpy()[4:-4, 4:-4]
    expected = np.zeros((3, 3), dtype=np.int64)
    np.add.at(expected, (source.read_slice(index)[1], predicted), 1)
    # Folding batch normalisation in may turn a pixel whose two best scores are equal to six digits.
    assert np.abs(np.array(line["whole"]) - expected).sum() <= 2 * 1e-3 * expected.sum()


def test_pictures_show_the_slice_that_is_labelled(evaluated, source):
    (index,) = source.test_slices().tolist()
    image, label = source.read_slice(index)
    with np.load(evaluated.folder.examples_file) as pictures:
        assert pictures["tiles"].shape == (3, 64, 64)
        for tile, (number, y, x) in zip(pictures["tiles"], pictures["tile_keys"].tolist(), strict=True):
            assert number == source.info.numbers[index]
            np.testing.assert_array_equal(tile, image[y : y + 64, x : x + 64])
        np.testing.assert_array_equal(pictures["slice"], image)
        (line,) = read_lines(evaluated.folder.slices_file)
        assert (pictures["slice_prediction"] == label).sum() == np.trace(line["whole"])
    with np.load(evaluated.folder.extremes_file) as pictures:
        np.testing.assert_array_equal(pictures["images"][0], image)


def test_the_filter_sees_the_middle_slice_alone(tmp_path, tiny_dataset):
    """Of the same tiles: a gap of 1 beside one neighbour on each side is a gap of 3 without."""
    evaluate, found = EvaluateConfig(other_noise="poisson"), []
    for context, gap in ((0, 3), (1, 1)):
        data = DataConfig(tiles="2x2", tile_size=64, split="blocked", gap_slices=gap, context=context)
        run = finished_run(tmp_path / str(context), tiny_dataset, CellConfig(data=data, evaluate=evaluate))
        assert make_baselines(run) == ()
        found += read_baselines(run)
    without, beside = found
    assert all(getattr(without, name) == getattr(beside, name) for name in ("split_sha256", "filter", "points"))
