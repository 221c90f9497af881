"""An evaluation that is stopped or killed goes on behind what it has counted, and ends in the same bits."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from finished_cells import planned
from rank_runner import run_cell_stage, run_ranks

from hpcseg.config import CellConfig, DataConfig, EvaluateConfig, TrainConfig
from hpcseg.learn import checkpoint
from hpcseg.runs import evaluation
from hpcseg.runs.execute import run_cell
from hpcseg.runs.grid import Cell, read_cell
from hpcseg.runs.record import read_lines, write_record
from hpcseg.segment import network
from hpcseg.segment.slices import WholeSlices
from hpcseg.segment.sweep import Sweep
from hpcseg.sigma import Share

# 39 test tiles are 2 chunks at 3 noise levels; and they come from 15 slices, which are cut into tiles.
PIECES = 2 * 3 + 16
TRAIN = TrainConfig(width=2, depth=1, epochs=3, batch_size=8, learning_rate=0.01, precision="fp32")
# Shares of the span, as jobs have them that are for any data: they go into checkpoints, too.
EVALUATE = EvaluateConfig(
    table_sigma=Share("21 %"),
    sweep_max=Share("42 %"),
    sweep_step=Share("42 %"),
    whole_slices=True,
    examples=True,
    tile=48,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_dataset) -> Cell:
    """A cell that waits for its evaluation."""
    folder = tmp_path_factory.mktemp("resume")
    data = DataConfig(tiles="4x4", tile_size=32)
    config = CellConfig(data=data, train=TRAIN, evaluate=EVALUATE)
    grid = planned(folder, tiny_dataset, config)
    assert run_cell(grid.cells[0].folder, "train", should_stop=lambda: False) == "finished"
    return grid.cells[0]


@pytest.fixture
def cell(trained) -> Cell:
    """The same, as if nobody had evaluated it."""
    folder = trained.folder
    for file in (folder.evaluation_file, folder.slices_file, folder.examples_file, folder.evaluation_checkpoint_file):
        file.unlink(missing_ok=True)
    return read_cell(folder)


@pytest.fixture(scope="module")
def expected(trained) -> tuple[object, ...]:
    """What an evaluation that was left alone has found."""
    assert evaluate(trained) == "finished"
    answer = found(trained)
    assert len({tuple(map(tuple, point["confusion"])) for point in answer[0][0]}) == 3, "the noise levels differ"
    return answer


def found(cell: Cell) -> tuple[object, ...]:
    """All that an evaluation finds, to the bit."""
    record = json.loads(cell.folder.evaluation_file.read_text())
    assert not cell.folder.evaluation_checkpoint_file.exists(), "a finished evaluation needs none"
    names = ("points", "label_interfaces", "test_tiles", "settings", "slices_sha256", "tile_edge", "model_sha256")
    return (
        [record[name] for name in names],
        cell.folder.slices_file.read_bytes(),
        cell.folder.examples_file.read_bytes(),
    )


def evaluate(cell: Cell, stop_after: int | None = None) -> str:
    """In one rank, stopped when it has asked so often."""
    asked = iter(range(1000))
    return run_cell(cell.folder, "evaluate", should_stop=lambda: next(asked) + 1 == stop_after)


def starts(cell: Cell) -> list[int]:
    """How many pieces were counted before each start."""
    return [line["done"] for line in read_lines(cell.folder.events_file) if line["event"] == "evaluate"]


@pytest.mark.parametrize("stops", [(1,), (4,), (6,), (7,), (PIECES - 1,), (1, 6, 2, 9)])
def test_a_stopped_evaluation_ends_in_the_bits_of_one_left_alone(expected, cell, stops):
    before = len(starts(cell))
    for stop_after in stops:
        assert evaluate(cell, stop_after) == "stopped"
        assert not cell.folder.evaluation_file.exists()
    assert evaluate(cell) == "finished"
    assert found(cell) == expected
    assert starts(cell)[before:] == [sum(stops[:count]) for count in range(len(stops) + 1)]


@pytest.mark.parametrize("ranks", [(1, 2), (2, 1), (3, 2, 1)])
def test_it_goes_on_with_another_number_of_ranks(expected, cell, ranks):
    before = len(starts(cell))
    for world_size in ranks[:-1]:
        assert set(run_ranks(world_size, run_cell_stage, cell.folder.path, "evaluate", 0)) == {"stopped"}
    assert set(run_ranks(ranks[-1], run_cell_stage, cell.folder.path, "evaluate")) == {"finished"}
    assert found(cell) == expected
    assert starts(cell)[before:] == [sum(ranks[:count]) for count in range(len(ranks))], "a piece for each rank"


@pytest.mark.parametrize("questions", [0, 3, 6, 15])
def test_a_kill_loses_no_more_than_the_piece_under_way(expected, cell, monkeypatch, questions):
    monkeypatch.setenv("HPCSEG_CHECKPOINT_SECONDS", "0")
    before, asked = len(starts(cell)), iter(range(questions))
    with pytest.raises(StopIteration):  # as sudden as a kill: nobody is told to stop, and nothing is tidied up
        run_cell(cell.folder, "evaluate", should_stop=lambda: next(asked) < 0)
    counted = []
    for kind in (Sweep, WholeSlices):
        monkeypatch.setattr(kind, "count_each", _noting(kind.count_each, counted))
    assert evaluate(cell) == "finished"
    assert found(cell) == expected
    assert starts(cell)[before:] == [0, questions] and len(counted) == PIECES - questions


def _noting(count_each, counted):
    return lambda self, pieces: map(counted.append, count_each(self, pieces))


def test_a_job_that_is_told_to_stop_before_it_counts_gets_to_its_end_all_the_same(expected, cell):
    """A time limit that leaves room for the start of Python and little more."""
    for _ in range(PIECES - 1):
        assert run_cell(cell.folder, "evaluate", should_stop=lambda: True) == "stopped"
    assert run_cell(cell.folder, "evaluate", should_stop=lambda: True) == "finished"
    assert found(cell) == expected


def test_a_damaged_checkpoint_costs_time_is_said_and_changes_nothing(expected, cell, capsys):
    assert evaluate(cell, 4) == "stopped"
    file = cell.folder.evaluation_checkpoint_file
    file.write_bytes(file.read_bytes()[:-100])
    assert evaluate(cell) == "finished"
    assert "its last checkpoint cannot be used, so it begins at the first tile" in capsys.readouterr().out
    assert found(cell) == expected and starts(cell)[-1] == 0
    told = [line["what"] for line in read_lines(cell.folder.events_file) if line["event"] == "damaged"]
    assert "evaluation-checkpoint.pt cannot be read as a checkpoint" in told[-1]


@pytest.mark.parametrize("what", ["model", "data", "split", "settings", "precision", "edge distances", "sure bins"])
def test_counts_are_bound_to_all_that_decides_them(expected, cell, what):
    assert evaluate(cell, 4) == "stopped"
    file = cell.folder.evaluation_checkpoint_file
    content = checkpoint.load(file)
    content["counts"] = {name: torch.full_like(tensor, 10**9) for name, tensor in content["counts"].items()}
    checkpoint.save(file, {**content, "belongs": {**content["belongs"], what: "another"}})
    assert evaluate(cell) == "finished"
    assert found(cell) == expected
    told = [line["what"] for line in read_lines(cell.folder.events_file) if line["event"] == "damaged"]
    assert told[-1] == f"evaluation-checkpoint.pt is of another {what}, so its counts are left out."


def test_slices_may_take_of_the_memory_that_test_tiles_leave(cell, monkeypatch):
    asked, place, free = list[str](), evaluation.test_tiles, network.free_bytes
    monkeypatch.setattr(
        evaluation, "test_tiles", lambda *all_of, **them: asked.append("tiles") or place(*all_of, **them)
    )
    monkeypatch.setattr(network, "free_bytes", lambda device: asked.append("free") or free(device))
    assert evaluate(cell, 1) == "stopped"
    assert asked == ["tiles", "free"]


def test_slices_are_cut_as_the_first_start_has_cut_them(trained, monkeypatch):
    """Without a wish for tiles memory decides, and on another node it may decide otherwise."""
    planned = json.loads(trained.folder.config_file.read_text())
    for file in (trained.folder.evaluation_file, trained.folder.evaluation_checkpoint_file):
        file.unlink(missing_ok=True)
    free = dataclasses.replace(EVALUATE, tile=0)
    write_record(trained.folder.config_file, {**planned, "evaluate": dataclasses.asdict(free)})
    try:
        monkeypatch.setattr(network, "free_bytes", lambda device: 1e6)
        assert evaluate(trained, 8) == "stopped"
        monkeypatch.setattr(network, "free_bytes", lambda device: 1e12)
        assert evaluate(trained) == "finished"
        edge = json.loads(trained.folder.evaluation_file.read_text())["tile_edge"]
        assert 64 <= edge < 128
    finally:
        write_record(trained.folder.config_file, planned)
        trained.folder.evaluation_file.unlink(missing_ok=True)
