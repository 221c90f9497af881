"""Other readings of the paper: which epoch is kept, and tests with the statistics of batches, whoever runs them."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from finished_cells import planned
from rank_runner import run_cell_stage, run_ranks

from hpcseg.config import CellConfig, DataConfig, EvaluateConfig, NoiseLevel, ReportConfig, TrainConfig
from hpcseg.data.batches import open_source
from hpcseg.data.training_tiles import validation_set
from hpcseg.errors import ConfigError
from hpcseg.learn import checkpoint
from hpcseg.learn.evaluate import validate
from hpcseg.learn.folding import folded
from hpcseg.learn.ranks import Ranks
from hpcseg.predict.model_file import open_cell
from hpcseg.predict.request import Request, begin
from hpcseg.records.collect import collect
from hpcseg.report.tables import levels
from hpcseg.runs.execute import run_cell
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Cell
from hpcseg.runs.inputs import load_model
from hpcseg.runs.record import read_json, read_lines

DATA = DataConfig(tiles="2x2", tile_size=32)
# So large a step that the validation accuracy goes up and down.
TRAIN = TrainConfig(
    width=2, depth=1, epochs=6, batch_size=8, learning_rate=0.3, noise_fraction=0.5, precision="fp32", keep="best"
)
EVALUATE = EvaluateConfig(
    sweep_max=1000, other_sigmas="9000", other_noise="offset", batch_norm="running+batch", batch_size=3
)
CELL = CellConfig(data=DATA, train=TRAIN, evaluate=EVALUATE)
STEPS = 6
"""Of an epoch: 45 training tiles in batches of 8."""


def make_cell(folder: Path, dataset: Path, config: CellConfig = CELL) -> Cell:
    report = ReportConfig(tables=("levels",), figures=())
    return planned(folder, dataset, config, report=report).cells[0]


def train(cell: Cell, stop_after: int | None = None) -> str:
    asked = iter(range(1000))
    return run_cell(cell.folder, "train", should_stop=lambda: next(asked) == stop_after)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_dataset) -> Cell:
    """A cell that was trained in one go."""
    cell = make_cell(tmp_path_factory.mktemp("best"), tiny_dataset)
    assert train(cell) == "finished"
    return cell


def accuracies(cell: Cell) -> list[float]:
    return [np.trace(line["validation_confusion"]) for line in read_lines(cell.folder.metrics_file)]


def test_the_best_epoch_is_the_model_and_the_record_says_which_it_was(trained, tiny_dataset):
    record, right = read_json(trained.folder.training_file), accuracies(trained)
    best = int(np.argmax(right))
    assert len(right) == TRAIN.epochs and right[best] > right[-1], "else nothing is shown"
    assert (record["epochs"], record["kept_epoch"]) == (TRAIN.epochs, best + 1)
    line = read_lines(trained.folder.metrics_file)[best]
    assert all(record[name] == line[name] for name in ("validation_loss", "validation_confusion"))
    source = open_source(tiny_dataset, DATA)
    model, _ = load_model(trained, source.classes)
    validation = validation_set(source, source.split.validation, TRAIN, torch.device("cpu"))
    _, confusion = validate(folded(model), validation, classes=3, precision="fp32", ranks=Ranks())
    assert confusion.tolist() == record["validation_confusion"]


def test_among_equal_epochs_the_earliest_is_kept(tmp_path, tiny_dataset):
    still = dataclasses.replace(TRAIN, learning_rate=1e-30, batch_norm=False, epochs=3)
    cell = make_cell(tmp_path, tiny_dataset, CellConfig(data=DATA, train=still))
    assert train(cell) == "finished"
    assert len(set(accuracies(cell))) == 1
    assert read_json(cell.folder.training_file)["kept_epoch"] == 1


def test_without_a_wish_the_last_epoch_is_kept(trained, tmp_path, tiny_dataset):
    last = dataclasses.replace(TRAIN, keep="last")
    cell = make_cell(tmp_path, tiny_dataset, CellConfig(data=DATA, train=last))
    assert train(cell, stop_after=STEPS + 2) == "stopped"
    assert "best" not in checkpoint.load(cell.folder.checkpoint_file)
    assert train(cell) == "finished"
    record = read_json(cell.folder.training_file)
    assert record["kept_epoch"] == TRAIN.epochs and accuracies(cell) == accuracies(trained)
    assert record["model_sha256"] != read_json(trained.folder.training_file)["model_sha256"]


@pytest.mark.parametrize("stops", [(1,), (STEPS + 3, 2 * STEPS, 5), (6 * STEPS - 1,)])
def test_a_stopped_training_keeps_the_best_epoch_to_the_bit(trained, tmp_path, tiny_dataset, stops):
    cell = make_cell(tmp_path, tiny_dataset)
    for stop_after in stops:
        assert train(cell, stop_after) == "stopped"
    assert train(cell) == "finished"
    for name in ("model_sha256", "kept_epoch", "validation_confusion"):
        assert read_json(cell.folder.training_file)[name] == read_json(trained.folder.training_file)[name]


def test_a_checkpoint_of_before_there_were_later_settings_is_gone_on_with(tmp_path, tiny_dataset):
    """Its origin has the settings of then, and so has that of a cell whose later settings are at their defaults."""
    plain = dataclasses.replace(TRAIN, keep="last", epochs=1)
    cell = make_cell(tmp_path, tiny_dataset, CellConfig(data=DATA, train=plain))
    assert train(cell, stop_after=2) == "stopped"
    origin = checkpoint.load(cell.folder.checkpoint_file)["origin"]
    assert not {"data.slices", "data.normalise", "data.out_of_range", "train.keep"} & set(origin)
    assert {"data.tiles", "train.width", "train.seed", "data_sha256", "numerics"} <= set(origin)


def found(cell: Cell) -> tuple[object, ...]:
    return read_json(cell.folder.evaluation_file)["points"], cell.folder.slices_file.read_bytes()


@pytest.fixture(scope="module")
def evaluated(trained) -> tuple[object, ...]:
    assert run_cell(trained.folder, "evaluate", should_stop=lambda: False) == "finished"
    return found(trained)


def again(cell: Cell) -> None:
    """As if nobody had evaluated it."""
    for file in (cell.folder.evaluation_file, cell.folder.slices_file, cell.folder.evaluation_checkpoint_file):
        file.unlink(missing_ok=True)


def test_points_with_the_statistics_of_batches_are_those_of_a_model_in_training_mode(trained, evaluated, tiny_dataset):
    points = read_json(trained.folder.evaluation_file)["points"]
    assert [point.get("batch_norm_tiles") for point in points] == [None] * 6 + [3] * 5
    shown = [(point["noise"], point["sigma"]) for point in points[6:]]
    assert shown == [("gaussian", 0), ("gaussian", 5000), ("gaussian", 9000), ("offset", 5000), ("offset", 9000)]
    source = open_source(tiny_dataset, DATA)
    model, _ = load_model(trained, source.classes)
    counts, labels, _ = source.read(source.split.test)
    right = 0
    for start in range(0, len(counts), 3):
        images = torch.from_numpy(counts[start : start + 3].astype(np.float32) / 65_535).unsqueeze(1)
        with torch.no_grad():
            predicted = copy.deepcopy(model).train()(images).argmax(1).numpy()
        right += (predicted == labels[start : start + 3]).sum()
    # Rounding may turn a pixel whose two best scores are equal to six digits.
    assert np.trace(points[6]["confusion"]) == pytest.approx(right, abs=1e-4 * labels.size)
    lines = [json.loads(line) for line in trained.folder.slices_file.read_text().splitlines()]
    keys = list(lines[0]["right"])
    assert keys[5:] == [f"{key}-batch-norm-3" for key in keys[:5]]
    for key, point in zip(keys[5:], points[6:], strict=True):
        assert sum(line["right"][key] for line in lines) == np.trace(point["confusion"])


@pytest.mark.parametrize("ranks", [(2,), (3, 2), (2, 1)])
def test_batches_are_the_same_on_any_number_of_ranks_and_after_a_stop(trained, evaluated, ranks):
    again(trained)
    for world_size in ranks[:-1]:
        assert set(run_ranks(world_size, run_cell_stage, trained.folder.path, "evaluate", 3)) == {"stopped"}
    assert set(run_ranks(ranks[-1], run_cell_stage, trained.folder.path, "evaluate")) == {"finished"}
    assert found(trained) == evaluated


def test_the_report_reads_these_levels_and_shows_each_in_a_column_of_its_own(trained, evaluated):
    records = collect(RunFolder(trained.folder.path.parents[1]))
    assert not records.holes
    evaluation = records.rows[0].evaluation
    assert evaluation is not None and tuple(evaluation.confusion) == EVALUATE.levels()
    assert evaluation.confusion[NoiseLevel(0.0, norm_tiles=3)].tolist() == evaluated[0][6]["confusion"]
    heads = [head for block in levels(records).blocks for head in block.columns]
    assert {"clean", "clean, statistics of 3 test tiles", "offset 9000, statistics of 3 test tiles"} <= set(heads)
    assert len(heads) == len(set(heads))


def test_a_model_files_accuracies_are_those_of_its_running_statistics(trained, evaluated):
    stated = open_cell(trained.folder).card.training.test_accuracy
    assert [point.accuracy for point in stated] == [point["accuracy"] for point in evaluated[0][:6]]


@pytest.mark.parametrize("normalise", ["tile", "set"])
def test_predict_refuses_a_model_whose_tiles_were_normalised_by_themselves(
    tmp_path, tiny_dataset, tiny_folder, normalise
):
    data = dataclasses.replace(DATA, normalise=normalise)
    cell = make_cell(tmp_path, tiny_dataset, CellConfig(data=data, train=dataclasses.replace(TRAIN, epochs=1)))
    assert train(cell) == "finished"
    assert run_cell(cell.folder, "evaluate", should_stop=lambda: False) == "finished"
    request = Request(models=(cell.folder.path,), source=tiny_folder / "data", out=tmp_path / "out")
    with pytest.raises(ConfigError, match=rf'{cell.id} was trained with data\.normalise = "{normalise}"'):
        begin(request)
    assert not (tmp_path / "out").exists()
