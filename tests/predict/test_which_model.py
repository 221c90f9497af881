"""Which model a pattern stands for: of one run, among its trained cells, and said by name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import tifffile
from slice_folder import hpcseg

from hpcseg.runs.record import write_record


@pytest.fixture
def here(cells, tiny_folder, tmp_path, monkeypatch):
    """A folder with runs/old, of which a third cell with seed 0 is not trained, and the newer runs/new, a copy of it
    whose cells have other names and of which none is trained."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(cells[0].path.parents[1], "runs/old", ignore=shutil.ignore_patterns("lock"))
    first = Path("runs/old/cells", cells[0].id)
    Path(f"{first}-2").mkdir()
    shutil.copy(first / "config.json", f"{first}-2")
    for cell in cells:
        Path("runs/new/cells", f"new-{cell.id}").mkdir(parents=True)
        shutil.copy(cell.config_file, Path("runs/new/cells", f"new-{cell.id}"))
    shutil.copy("runs/old/grid.json", "runs/new")
    os.utime("runs/old/grid.json", (1, 1))
    tifffile.imwrite("scan.tif", tifffile.imread(tiny_folder / "data" / "sample0001.tiff"))
    return tmp_path


@pytest.fixture
def predict(here, tiny_dataset):
    """`hpcseg predict` of runs/old, which lies elsewhere than when it was planned."""
    return lambda *arguments: hpcseg("predict", *arguments, "--run", "runs/old", "--data", tiny_dataset)


def test_run_and_models_are_printed_whoever_chose_them(predict, cells, model_file):
    first, second = (cell.id for cell in cells)
    answer = predict("*-s0-*", "scan.tif", "-o", "one")
    assert answer.exit_code == 0 and f"Model: {first} (run runs/old)" in answer.stdout
    assert second not in answer.stdout
    again = predict("*-s0-*", "scan.tif", "-o", "one")
    assert f"Model: {first} (run runs/old)" in again.stdout, "also where nothing is left to do"
    both = predict("*-s0-*", "scan.tif", "-o", "two", "--ensemble", "*")
    assert both.exit_code == 0, both.output
    assert [line for line in both.stdout.splitlines() if line.startswith("Model: ")] == [
        f"Model: {first} (run runs/old)",
        f"Model: {second} (run runs/old)",
    ]
    file = hpcseg("predict", model_file, "scan.tif", "-o", "file")
    assert f"Model: {first} (file {model_file})" in file.stdout


def test_what_a_pattern_fits_and_is_not_trained_yet_is_said(predict, cells):
    first, second = (cell.id for cell in cells)
    Path("runs/old/cells", second, "training.json").unlink()
    answer = predict(first, "scan.tif", "-o", "out", "--ensemble", "*")
    assert answer.exit_code == 0, answer.output
    assert 'of the cells that "*" fits, these are not trained yet and left out: s1.' in " ".join(answer.stderr.split())
    assert second not in answer.stdout


def test_a_precision_that_the_device_does_not_have_is_refused_before_anything_is_written(predict, cells):
    answer = predict(cells[0].id, "scan.tif", "-o", "out", "--precision", "tf32")
    assert answer.exit_code == 1 and "--precision of a prediction" in answer.stderr, answer.output
    assert not Path("out").exists()


def test_a_copy_of_a_cell_that_lies_in_no_run_is_called_a_folder(cells, tiny_dataset, tiny_folder, tmp_path):
    shutil.copytree(cells[0].path, tmp_path / "kept")
    command = ("predict", tmp_path / "kept", tiny_folder / "data", "-o", tmp_path / "out", "--data", tiny_dataset)
    said = " ".join(hpcseg(*command, "--slices", "1-1").output.split())
    assert f"(folder {tmp_path / 'kept'})" in said and "(run" not in said


def test_a_pattern_is_looked_for_in_the_newest_run_alone(here, cells):
    answer = hpcseg("predict", "*-s0-*", "scan.tif", "-o", "out")
    assert answer.exit_code == 5 and 'No cell of runs/new that fits "*-s0-*" is trained yet.' in answer.stderr
    trained = "before-the-last-grid"
    shutil.copytree(Path("runs/old/cells", cells[0].id), Path("runs/new/cells", trained))
    answer = hpcseg("predict", "new-*-s0-*", "scan.tif", "-o", "out")
    assert f"1 cell of other settings can be named. There are:\n  {trained}\n" in answer.stderr
    answer = hpcseg("predict", cells[0].id, "scan.tif", "-o", "out")
    assert answer.exit_code == 2 and f'No cell of runs/new fits "{cells[0].id}"' in answer.stderr
    assert not Path("out").exists()


def test_cells_of_other_data_are_called_that_and_noted_before_more_are_planned_beside_them(predict, here, tiny_dataset):
    Path("job.toml").write_text("[[grid]]\ndata.tiles = '2x2'\ndata.tile_size = 64\n")
    grid = ("grid", "--local", "--dry-run", "--job", "job.toml", "--data", tiny_dataset, "--run", "runs/old")
    note = "Note: this run has cells of other data; --run runs/NAME keeps them apart."
    assert note not in hpcseg(*grid).stderr
    (trained,) = (path for path in Path("runs/old/cells").glob("*-s0-*") if (path / "training.json").exists())
    other = trained.with_name("other")
    shutil.copytree(trained, other, ignore=shutil.ignore_patterns("lock"))
    content = json.loads((other / "config.json").read_text())
    write_record(other / "config.json", {**content, "data_sha256": "0" * 64})
    assert note in hpcseg(*grid).stderr
    said = "1 more trained cell of other data"
    assert f"{said}: a `hpcseg grid` with their --data" in hpcseg("status", "--run", "runs/old").stdout
    assert f"{said} are named by their ids" in predict("s0", "scan.tif", "-o", "out").stderr


def test_a_cell_may_be_named_as_status_shows_it(predict, cells):
    shown = hpcseg("status", "--run", "runs/old").output
    second = predict("s1", "scan.tif", "-o", "out")
    assert second.exit_code == 0 and f"Model: {cells[1].id} (run runs/old)" in second.stdout, (shown, second.output)
    neither = predict("s2", "scan.tif", "-o", "none")
    assert neither.exit_code == 2 and 'No cell of runs/old fits "s2"' in neither.stderr


def test_cells_of_the_last_plan_come_before_those_of_others(predict, cells):
    first = Path("runs/old/cells", cells[0].id)
    shutil.copytree(first, f"{first}-3", ignore=shutil.ignore_patterns("lock"))
    answer = predict("*-s0-*", "scan.tif", "-o", "out")
    assert answer.exit_code == 0 and f"Model: {cells[0].id} (run runs/old)" in answer.stdout
    assert predict("*-3", "scan.tif", "-o", "before").exit_code == 0, "where none of them fits"


def test_a_pattern_that_fits_several_trained_cells_is_refused_with_their_names(predict, cells):
    answer = predict("*", "scan.tif", "-o", "out")
    assert answer.exit_code == 2 and "fits 2 trained cells of runs/old, but it must fit one" in answer.stderr
    assert answer.stderr.count("\n  ") == 2 and all(f"\n  {cell.id}\n" in answer.stderr for cell in cells)


def test_a_pattern_may_be_of_what_the_screen_shows(predict, cells):
    both = predict("s0", "scan.tif", "-o", "two", "--ensemble", "s*")
    assert both.exit_code == 0, both.output
    assert all(cell.id in both.stdout for cell in cells)
