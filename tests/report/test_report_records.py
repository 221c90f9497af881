"""Collecting records. The helpers at the top write the run folders of all tests of this folder."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.config import CellConfig, NoiseLevel
from hpcseg.errors import ConfigError, IncompleteError
from hpcseg.jobfile import load_job
from hpcseg.records.collect import Records, collect
from hpcseg.records.groups import group_label
from hpcseg.records.row import Hole
from hpcseg.report.measures import at
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Cell, Grid, read_grid, write_plan
from hpcseg.runs.record import SCHEMA, write_json, write_record
from hpcseg.statistics import estimate

DATA, NUMERICS, CODE = "d" * 64, 7, "c" * 64
OWN_JOB = """
title = "Tiny"
[train]
width = 8
epochs = 2
[evaluate]
sweep_max = 20000
sweep_step = 10000
[[grid]]
data.tiles = "small"
train.noise_fraction = [0.0, 0.5]
"""
"""Without [report], as a user's own."""
THE_PAPERS = '[report]\ntables = ["table1", "table2"]\nfigures = ["figure3", "figure7"]\n'
TINY_JOB = OWN_JOB.replace("[[grid]]", f"{THE_PAPERS}[[grid]]")
"""With the paper's tables and figures."""

Accuracy = Callable[[CellConfig, float | None], int]
"""A cell's right pixels of 1000: at a sigma of the test noise, or for None in validation."""


def confusion(right: int) -> list[list[int]]:
    """1000 pixels of class 0, some of them taken for class 1; class 2 is absent."""
    return [[right, 1000 - right, 0], [0, 0, 0], [0, 0, 0]]


def plan(folder: Path, toml: str = TINY_JOB, name: str = "tiny") -> Grid:
    """The grid.json and config.json files of a job, without any result."""
    folder.mkdir(parents=True, exist_ok=True)
    job_file = folder.parent / f"{name}.toml"
    job_file.write_text(toml)
    job, run = load_job(job_file), RunFolder(folder)
    cells = [Cell(config, run.cell(config.cell_id(data_sha256=DATA, numerics=NUMERICS))) for config in job.cells]
    grid = Grid(run, job, folder.parent / "data.h5", DATA, NUMERICS, tuple(cells))
    write_plan(grid)
    return grid


def finish(cell: Cell, right: Accuracy, *, evaluated: bool = True) -> None:
    """Write the records that a finished cell has."""
    config = cell.config
    made = {
        "precision": "fp32",
        "world_size": 2,
        "provenance": {"numerics": NUMERICS, "commit": "0123456789abcdef-dirty", "host": "node1", "device": "CPU"},
    }
    validation = confusion(right(config, None))
    epochs = [
        {
            "epoch": epoch,
            "step": 10 * epoch,
            "train_loss": 1 / epoch,
            "train_accuracy": 1 - 0.5 / epoch,
            "validation_loss": 1.2 / epoch,
            "validation_confusion": validation,
        }
        for epoch in range(1, config.train.epochs + 1)
    ]
    cell.folder.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in epochs))
    cell.folder.events_file.write_text('{"time": 1.0, "event": "start"}\n')
    training = {
        "schema": SCHEMA,
        "id": cell.id,
        "epochs": len(epochs),
        "steps": len(epochs) * -(-350 // config.train.batch_size),
        "train_tiles": 350,
        "validation_tiles": 75,
        "parameters": 31_043_523,
        "seconds": 100.25,
        "validation_loss": epochs[-1]["validation_loss"],
        "validation_confusion": validation,
        "split_sha256": "5",
        "model_sha256": f"model of {cell.id}",
        **made,
    }
    write_record(cell.folder.training_file, training)
    points = [
        {"sigma": level.sigma, "noise": level.model, "fraction": level.fraction,
         "confusion": confusion(right(config, level.sigma))}
        for level in config.evaluate.levels()
    ]  # fmt: skip
    evaluation = {
        "schema": SCHEMA,
        "id": cell.id,
        "settings": dataclasses.asdict(config.evaluate),
        "model_sha256": f"model of {cell.id}",
        "test_tiles": 75,
        "class_values": [0, 128, 255],
        "points": points,
        "grey": {"low": 0.0, "high": 65_535.0, "quantiles": [20_000.0, 45_000.0]},
        "seconds": 2.0,
        **made,
    }
    if evaluated:
        write_record(cell.folder.evaluation_file, evaluation)


def tiny_run(folder: Path, toml: str = TINY_JOB) -> Grid:
    """A finished run: validation 990, clean test 968, 500 right pixels at every other sigma."""
    grid = plan(folder, toml)
    for cell in grid.cells:
        finish(cell, lambda _, sigma: {None: 990, 0.0: 968}.get(sigma, 500))
    return grid


def change(file: Path, **values: object) -> None:
    """Replace keys of a record, as whoever wrote it would have."""
    write_record(file, {**json.loads(file.read_text()), **values})


def holes_by_cell(records: Records) -> dict[str, Hole]:
    return {hole.subject: hole for hole in records.holes}


def test_ratios_come_from_the_counts_and_one_that_does_not_follow_from_them_is_damage(tmp_path):
    grid = tiny_run(tmp_path / "run")
    for cell, accuracy in zip(grid.cells, (0.968, 0.967), strict=True):
        points = json.loads(cell.folder.evaluation_file.read_text())["points"]
        change(cell.folder.evaluation_file, points=[{**points[0], "accuracy": accuracy}, *points[1:]])

    first, second = collect(grid.run).rows

    assert first.validation_accuracy() == 0.990
    assert first.test_accuracy(NoiseLevel(0.0)) == 0.968
    assert first.test_accuracy(NoiseLevel(5000.0)) == 0.500
    assert first.hole is None
    assert "at gaussian-0 accuracy does not follow from the confusion matrix" in second.hole.reason


def test_seeds_of_the_training_and_of_the_split_are_repetitions_of_one_group(tmp_path):
    grid = plan(tmp_path / "run", TINY_JOB + "train.seed = [0, 1]\ndata.split_seed = [0, 1, 2]\n")
    for cell in grid.cells:
        finish(cell, lambda config, _: 900 + 10 * config.train.seed + config.data.split_seed)
        change(cell.folder.training_file, split_sha256=str(cell.config.data.split_seed))
    records = collect(grid.run)
    assert [len(group.rows) for group in records.groups] == [6, 6]
    found = at(records, "gaussian-0")(records.positions["small", "shuffled", 0.0])
    assert sorted((one.seed, one.place) for one in found) == [(seed, place) for seed in (0, 1) for place in (0, 1, 2)]
    # Seeds of 0.90 and 0.91, positions a thousandth apart: the mean is in the middle of both.
    assert estimate(found).mean == pytest.approx(0.906)


def test_a_deleted_evaluation_is_a_hole_and_leaves_the_validation(tmp_path):
    grid = tiny_run(tmp_path / "run")
    cell = grid.cells[1]
    cell.folder.evaluation_file.unlink()

    records = collect(grid.run)

    assert list(holes_by_cell(records)) == [cell.id]
    assert "trained, but not evaluated" in str(records.holes[0])
    assert "hpcseg grid --job tiny" in str(records.holes[0])
    assert records.rows[1].validation_accuracy() == 0.990
    assert records.rows[1].test_accuracy(NoiseLevel(0.0)) is None


def as_of_before(grid: Grid) -> None:
    """Makes a run one of before there were numerics numbers: a hash over source text stood in their place."""
    for file in grid.run.path.rglob("*.json"):
        content = {**json.loads(file.read_text()), "schema": 1}
        del content["content_sha256"]
        for stated in (content, content.get("provenance", {})):
            if stated.pop("numerics", None):
                stated["code_sha256"] = CODE
        write_json(file, content)


def test_a_run_of_before_numerics_numbers_is_read_as_ever(tmp_path):
    grid = tiny_run(tmp_path / "run")
    as_of_before(grid)
    assert collect(grid.run).holes == ()
    assert read_grid(grid.run).numerics is None


@pytest.mark.parametrize("stated", [{"numerics": NUMERICS}, {"code_sha256": "e" * 64}])
def test_a_run_of_before_numerics_numbers_takes_no_record_of_other_code(tmp_path, stated):
    grid = tiny_run(tmp_path / "run")
    as_of_before(grid)
    change(grid.cells[0].folder.training_file, provenance=stated)
    change(grid.cells[1].folder.evaluation_file, provenance=stated)
    reasons = [hole.reason for hole in collect(grid.run).holes]
    assert ["with other code" in reason for reason in reasons] == [True, True]
    assert "than grid.json (code hash cccccccc, before numerics numbers)" in reasons[0]


def test_a_plan_that_names_no_code_is_damaged(tmp_path):
    grid = tiny_run(tmp_path / "run")
    as_of_before(grid)
    plan = json.loads(grid.run.grid_file.read_text())
    del plan["code_sha256"]
    write_record(grid.run.grid_file, plan)
    with pytest.raises(IncompleteError, match="damaged"):
        collect(grid.run)


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("config.json", {"data_sha256": "e" * 64}, "other data (eeeeeeee)"),
        ("config.json", {"numerics": 1}, "is of other code (numerics 1) than grid.json (numerics 7)"),
        ("config.json", {"train": {}}, "other settings"),
        ("training.json", {"provenance": {"numerics": 6}}, "trained with other code (numerics 6)"),
        ("training.json", {"provenance": {"code_sha256": CODE}}, "(code hash cccccccc, before numerics numbers)"),
        ("training.json", {"provenance": {}}, "trained with other code (code not stated)"),
        ("training.json", {"validation_confusion": [[1, 2], [3]]}, "training.json is damaged"),
        ("training.json", {"provenance": None}, "training.json is damaged (provenance is None)"),
        ("training.json", {"seconds": "long"}, "training.json is damaged (seconds is 'long')"),
        ("training.json", {"epochs": 2.5}, "training.json is damaged (epochs is 2.5)"),
        ("evaluation.json", {"precision": 16}, "evaluation.json is damaged (precision is 16)"),
        ("evaluation.json", {"points": [7]}, "evaluation.json is damaged"),
        ("training.json", {"id": "another"}, "cell another"),
        ("evaluation.json", {"provenance": {"numerics": 8}}, "evaluated with other code (numerics 8)"),
        ("evaluation.json", {"model_sha256": "of before"}, "evaluated with another model"),
        ("evaluation.json", {"settings": {}}, "evaluated with other settings"),
        ("evaluation.json", {"points": []}, "evaluation.json is damaged"),
        ("evaluation.json", {"schema": 3}, "schema 3"),
    ],
)
def test_a_record_that_does_not_belong_to_the_grid_is_a_hole_with_its_reason(tmp_path, file, values, words):
    grid = tiny_run(tmp_path / "run")
    cell = grid.cells[0]
    change(cell.folder.path / file, **values)

    records = collect(grid.run)

    assert list(holes_by_cell(records)) == [cell.id]
    assert words in records.holes[0].reason
    assert records.rows[0].evaluation is None
    assert (records.rows[0].training is None) == (file != "evaluation.json")
    assert records.rows[1].hole is None


def test_an_error_of_several_lines_is_one_line_of_the_holes(tmp_path):
    grid = plan(tmp_path / "run")
    write_json(grid.cells[0].folder.failure_file, {"error": "RuntimeError: out of memory\n\n# not a heading\n"})
    write_json(grid.cells[1].folder.failure_file, {"error": "HpcsegError: The disk is full."})

    holes = collect(grid.run).holes

    assert holes[0].reason == "its last attempt failed: RuntimeError: out of memory # not a heading."
    assert holes[1].reason == "its last attempt failed: HpcsegError: The disk is full."


def test_cell_folders_outside_the_grid_are_counted_and_named(tmp_path):
    grid = tiny_run(tmp_path / "run")
    shutil.copytree(grid.cells[0].folder.path, tmp_path / "run" / "cells" / "small-of-old-code")

    records = collect(grid.run)

    assert len(records.rows) == 2
    assert [note for note in records.notes if "small-of-old-code" in note and note.startswith("1 cell folder")]


WIDTHS = '[[grid]]\ndata.tiles = "small"\ntrain.width = [8, 16]\n'


def test_of_two_groups_that_claim_one_place_the_first_of_the_job_has_it_and_the_other_is_named(tmp_path):
    grid = tiny_run(tmp_path / "run", TINY_JOB.partition("[[grid]]")[0] + WIDTHS)
    records = collect(grid.run)
    (group,) = records.positions.values()
    assert group.config.train.width == 8
    (note,) = records.unplaced(["small"], [0.0])
    assert grid.cells[1].id in note and "report.cells" in note and grid.cells[0].id not in note


@pytest.mark.parametrize("width", [8, 16])
def test_the_job_says_which_cells_fill_the_papers_tables(tmp_path, width):
    chosen = f'[report]\ncells = ["train.width={width}"]\n'
    records = collect(tiny_run(tmp_path / "run", OWN_JOB.partition("[[grid]]")[0] + chosen + WIDTHS).run)
    (group,) = records.positions.values()
    assert group.config.train.width == width


@pytest.mark.parametrize("setting", ["train.witdh=8", "train.width"])
def test_cells_that_are_no_setting_are_refused(tmp_path, setting):
    records = collect(
        tiny_run(tmp_path / "run", OWN_JOB.replace("[[grid]]", f'[report]\ncells = ["{setting}"]\n[[grid]]', 1)).run
    )
    with pytest.raises(ConfigError, match=r"must be SECTION\.KEY=VALUE"):
        _ = records.positions


@pytest.mark.parametrize("more", ["evaluate.sweep_max = 0", "evaluate.examples = true"])
def test_seeds_with_and_without_a_sweep_or_pictures_are_one_group(tmp_path, more):
    grid = tiny_run(tmp_path / "run", f'{TINY_JOB}[[grid]]\ndata.tiles = "small"\ntrain.seed = 1\n{more}\n')

    records = collect(grid.run)

    assert len(records.positions["small", "shuffled", 0.0].rows) == 2
    assert len(records.groups) == 2
    assert records.notes == ()


def test_cells_of_one_split_that_were_trained_on_two_are_noted(tmp_path):
    grid = tiny_run(tmp_path / "run")
    change(grid.cells[0].folder.training_file, split_sha256="6")
    assert [note for note in collect(grid.run).notes if "different splits" in note]


def test_epochs_need_every_line_of_the_metrics(tmp_path):
    grid = tiny_run(tmp_path / "run")
    file = grid.cells[0].folder.metrics_file
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))

    rows = collect(grid.run).rows

    assert rows[0].training.epochs == ()
    assert [epoch.train_loss for epoch in rows[1].training.epochs] == [1.0, 0.5]


@pytest.mark.parametrize("loss", ["low", None, [1]])
def test_a_line_of_the_metrics_with_another_type_in_it_is_no_epoch(tmp_path, loss):
    grid = tiny_run(tmp_path / "run")
    file = grid.cells[0].folder.metrics_file
    lines = [{**json.loads(line), "train_loss": loss} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert collect(grid.run).rows[0].training.epochs == ()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"schema": 3}, "schema 3"),
        ({"cells": None}, "cells is None"),
        ({"cells": [7]}, "is damaged"),
        ({"cells": [{"id": "a", "data": {}, "train": {}}]}, "it has no evaluate"),
        ({"cells": [{"id": "../a", "data": {}, "train": {}, "evaluate": {}}]}, "'../a' is no id of a cell"),
        ({"data_sha256": 7}, "data_sha256 is 7"),
    ],
)
def test_a_grid_that_cannot_be_used_is_named_with_what_is_wrong(tmp_path, values, words):
    grid = tiny_run(tmp_path / "run")
    change(grid.run.grid_file, **values)
    with pytest.raises(IncompleteError, match=r"grid\.json") as caught:
        collect(grid.run)
    assert words in str(caught.value)


def test_a_folder_without_a_grid_is_named(tmp_path):
    with pytest.raises(IncompleteError, match=r"grid\.json"):
        collect(RunFolder(tmp_path))


def test_rows_have_other_names_whichever_setting_their_cells_differ_in(tmp_path):
    axes = """
[[grid]]
data.tiles = "small"
data.split = "blocked"
data.gap_slices = [2, 4]
train.batch_size = [25, 64]
train.learning_rate = [0.001, 0.00100000001]
train.seed = [0, 1]
[[grid]]
data.tiles = "small"
data.split = "blocked"
data.gap_slices = 2
train.seed = 2
evaluate.table_sigma = 4000
"""
    records = collect(plan(tmp_path, TINY_JOB.partition("[[grid]]")[0] + axes).run)
    names = [group_label(group, records.differing) for group in records.groups]
    assert len(names) == 2 * 2 * 2 + 1 and len(set(names)) == len(names)
    assert names[0] == "small, blocked, 0 % noise"
    assert "small, blocked, 0 % noise, gap slices 4, batch size 64" in names
    assert names[-1] == "small, blocked, 0 % noise, evaluate.table sigma 4000"


def test_what_follows_from_a_rows_tiles_is_not_in_its_name(tmp_path):
    axes = """
[[grid]]
data.tiles = "small"
train.batch_size = 25
[[grid]]
data.tiles = "large"
train.batch_size = 64
"""
    records = collect(plan(tmp_path, TINY_JOB.partition("[[grid]]")[0] + axes).run)
    assert [group_label(group, records.differing) for group in records.groups] == [
        "small, shuffled, 0 % noise",
        "large, shuffled, 0 % noise",
    ]
