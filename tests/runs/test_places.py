"""Tiles that the device, or the memory of the host, has no room for: another place, the same bits."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from pretend_gpu import pretend_gpu
from rank_runner import run_cell_stage, run_ranks

from hpcseg.data import noisy_tiles, training_tiles
from hpcseg.errors import ConfigError
from hpcseg.runs.execute import run_cell
from hpcseg.runs.finding import plan_run
from hpcseg.runs.grid import Cell, write_plan

# Of 22 training tiles of 64 x 64 pixels, float32 and uint8, 0.43 MiB, a quarter; and nothing.
_ROOM = {
    "device": {},
    "host": {"HPCSEG_TILES_ON_DEVICE": "0.1"},
    "file": {"HPCSEG_TILES_IN_MEMORY": "0"},
}
_ONCE = {"train.noise_fraction": "0.5"}
_ANEW = {**_ONCE, "train.noise_each_epoch": "true", "train.augment": '"symmetries"', "train.keep": '"best"'}
_EXPOSED = {**_ONCE, "train.augment": '"exposure"', "train.class_weights": '"1+2+3"', "train.schedule": '"cosine"'}
_OF_THE_SET = {**_ONCE, "evaluate.whole_slices": "false", "data.normalise": '"set"', "data.out_of_range": '"wrap"'}
_OF_EACH_EPOCH = {**_ANEW, **_OF_THE_SET, "evaluate.other_noise": '"poisson"'}
_FEW_LABELS = {
    **_ANEW,
    "data.label_share": "0.1",
    "train.epoch_steps": "5",
    "evaluate.batch_norm": '"running+batch"',
    "evaluate.batch_size": "4",
}
_NEIGHBOURS = {
    "data.context": "1",
    "data.split": '"blocked"',
    "data.gap_slices": "1",
    "data.tiles": '"2x2"',
    **_EXPOSED,
    "train.augment": '"flips+exposure"',
    "evaluate.other_noise": '"poisson"',
}
_JOB = """
[data]
tile_size = 64
tiles = "1x2"
[train]
width = 4
depth = 2
epochs = 2
batch_size = 7
precision = "fp32"
[evaluate]
sweep_max = 2000
whole_slices = true
examples = true
[needs]
gpus = 0
[[grid]]
train.seed = 0
"""


def _plan(folder: Path, data: Path, settings: dict[str, str]) -> Cell:
    folder.mkdir()
    (folder / "job.toml").write_text(_JOB)
    grid = plan_run(
        str(folder / "job.toml"), data, folder / "run", tuple(f"{name}={value}" for name, value in settings.items())
    )
    write_plan(grid)
    return grid.cells[0]


def _numbers(cell: Cell) -> list:
    """All that a cell's files say of its model and its test, but when and where."""
    training, evaluation = (
        json.loads(file.read_text()) for file in (cell.folder.training_file, cell.folder.evaluation_file)
    )
    told = [training["model_sha256"], training["train_tiles"], training["train_labelled_pixels"]]
    told += [evaluation[name] for name in ("points", "label_interfaces", "slices_sha256", "pictures_sha256")]
    return [*told, cell.folder.metrics_file.read_text()]


def _in_place(
    monkeypatch: pytest.MonkeyPatch, place: str, cell: Cell, *, on_gpu: bool = False, stop_at: int = 0
) -> list:
    for name in ("HPCSEG_TILES_ON_DEVICE", "HPCSEG_TILES_IN_MEMORY"):
        monkeypatch.delenv(name, raising=False)
    for name, wish in _ROOM[place].items():
        monkeypatch.setenv(name, wish)
    asked = 0

    def stops() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_at

    with pretend_gpu() if on_gpu else contextlib.nullcontext():
        if stop_at:
            assert run_cell(cell.folder, "train", should_stop=stops) == "stopped"
        for stage in ("train", "evaluate"):
            assert run_cell(cell.folder, stage, should_stop=lambda: False) == "finished"
    starts = json.loads(cell.folder.training_file.read_text())["starts"]
    assert {start["tiles"] for start in starts} == {place}
    return _numbers(cell)


@pytest.mark.parametrize("settings", [_ONCE, _ANEW, _EXPOSED, _OF_THE_SET, _OF_EACH_EPOCH, _FEW_LABELS, _NEIGHBOURS])
def test_a_cell_ends_in_the_same_bits_wherever_its_tiles_are(tmp_path, tiny_dataset, monkeypatch, settings):
    cells = {place: _plan(tmp_path / place, tiny_dataset, settings) for place in _ROOM}
    found = {place: _in_place(monkeypatch, place, cell) for place, cell in cells.items()}
    assert found["host"] == found["device"]
    assert found["file"] == found["device"]


@pytest.mark.parametrize("place", ["host", "file"])
def test_a_training_that_was_stopped_goes_on_with_tiles_that_are_elsewhere(tmp_path, tiny_dataset, monkeypatch, place):
    whole, stopped = (_plan(tmp_path / name, tiny_dataset, _ANEW) for name in ("whole", "stopped"))
    # In the middle of the second epoch.
    expected = _in_place(monkeypatch, "device", whole)
    assert _in_place(monkeypatch, place, stopped, stop_at=7) == expected


@pytest.mark.parametrize("place", ["host", "file"])
def test_ranks_load_their_own_tiles_and_end_in_the_same_bits(tmp_path, tiny_dataset, monkeypatch, place):
    weights = []
    for name in ("device", place):
        cell = _plan(tmp_path / name, tiny_dataset, _ANEW)
        for variable, wish in _ROOM[name].items():
            monkeypatch.setenv(variable, wish)
        for stage in ("train", "evaluate"):
            assert set(run_ranks(2, run_cell_stage, cell.folder.path, stage)) == {"finished"}
        weights.append(_numbers(cell))
    assert weights[0] == weights[1]


@pytest.mark.parametrize("place", ["host", "file"])
def test_on_a_gpu_tiles_that_are_elsewhere_make_no_step_wait_and_change_no_bit(
    tmp_path, tiny_dataset, monkeypatch, place
):
    monkeypatch.setenv("HPCSEG_CHECKPOINT_SECONDS", "1e9")
    expected = _in_place(monkeypatch, "device", _plan(tmp_path / "cpu", tiny_dataset, _ANEW))
    found = _in_place(monkeypatch, place, _plan(tmp_path / "gpu", tiny_dataset, _ANEW), on_gpu=True)
    assert found == expected
    waits = []
    for batch in ("14", "7"):
        cell = _plan(tmp_path / batch, tiny_dataset, {**_ANEW, "train.batch_size": batch})
        with pretend_gpu() as gpu:
            assert run_cell(cell.folder, "train", should_stop=lambda: False) == "finished"
        waits.append({where: times for where, times in gpu.waits.items() if "captured.py" not in where})
    assert waits[0] == waits[1], "as often with twice the steps"


def test_of_tiles_in_the_file_a_few_are_in_memory_at_a_time(tmp_path, tiny_dataset, monkeypatch):
    read = []

    def noted(source, rows, **named):
        read.append(len(rows))
        return tiles_of(source, rows, **named)

    tiles_of = training_tiles.TileSource.read
    monkeypatch.setattr(training_tiles.TileSource, "read", noted)
    monkeypatch.setattr("hpcseg.data.batches._TILES_AT_ONCE", 3)
    monkeypatch.setattr("hpcseg.data.batches.EVALUATION_CHUNK", 2)
    cell = _plan(tmp_path / "cell", tiny_dataset, {**_OF_EACH_EPOCH, "evaluate.examples": "false"})
    _in_place(monkeypatch, "file", cell)
    assert max(read) <= 7, "a batch"
    assert noisy_tiles.TileSource is training_tiles.TileSource


@pytest.mark.parametrize("name", ["HPCSEG_TILES_ON_DEVICE", "HPCSEG_TILES_IN_MEMORY"])
@pytest.mark.parametrize("wish", ["", "-1", "much", "nan", "inf"])
def test_a_limit_that_is_no_number_is_refused(tmp_path, tiny_dataset, monkeypatch, name, wish):
    cell = _plan(tmp_path / "cell", tiny_dataset, _ONCE)
    monkeypatch.setenv(name, wish)
    with pytest.raises(ConfigError, match=f'{name} is "{wish}", but it must be a number from 0'):
        run_cell(cell.folder, "train", should_stop=lambda: False)
