"""What cells keep of their split: the gap in numbers, positions as repetitions, overlapping tiles on one side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished_cells import planned
from run_here import run_here
from slice_folder import hpcseg

from hpcseg.config import CellConfig, DataConfig, TrainConfig
from hpcseg.data.batches import open_source
from hpcseg.data.pack import pack
from hpcseg.data.sample import write_sample
from hpcseg.errors import HpcsegError
from hpcseg.learn import checkpoint
from hpcseg.records.collect import collect
from hpcseg.runs.execute import run_cell
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Cell
from hpcseg.runs.record import write_record

JOB = """
[data]
tile_size = 16
split = "blocked"
[train]
width = 1
depth = 1
epochs = 1
precision = "fp32"
[[grid]]
data.split_seed = [0, 1, 2, 3, 4]
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with 30 packed slices, which is where the test is."""
    monkeypatch.chdir(tmp_path)
    write_sample(tmp_path, slices=30, size=40, seed=0)
    pack(Path("data"), Path("labels"), Path("dataset.h5"), command="test")
    return tmp_path


def make_cell(dataset: Path, epochs: int = 1, **data: object) -> Cell:
    train = TrainConfig(width=1, depth=1, epochs=epochs, batch_size=7, precision="fp32")
    config = CellConfig(data=DataConfig(tile_size=16, **data), train=train)
    return planned(dataset.parent / "run", dataset, config).cells[0]


def trained(cell: Cell) -> dict[str, object]:
    assert run_cell(cell.folder, "train", should_stop=lambda: False) == "finished"
    return json.loads(cell.folder.training_file.read_text())


def test_positions_of_the_blocks_are_an_axis_that_plans_runs_and_is_one_group(here):
    Path("positions.toml").write_text(JOB)
    run_here("positions.toml")
    run = RunFolder(here / "runs" / "positions")
    records = [json.loads(folder.training_file.read_text()) for folder in run.cell_folders()]
    assert [folder.id.rpartition("-")[0] for folder in run.cell_folders()] == [
        "small-blocked-p000-w1-s0-tile-size-16-depth-1-epochs-1-precision-fp32",
        *(f"small-blocked-p000-w1-s0-tile-size-16-split-seed-{n}-depth-1-epochs-1-precision-fp32" for n in range(1, 5)),
    ]
    # A tenth of 30 slices, which the sample's structures of 9 pixels exceed.
    assert [(record["gap_slices"], record["gap_capped"]) for record in records] == [(3, True)] * 5
    assert len({record["split_sha256"] for record in records}) == 5
    (group,) = collect(run).groups
    assert sorted(row.config.data.split_seed for row in group.rows) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("data", "gap"),
    [
        ({}, (None, False)),
        ({"split": "blocked", "gap_slices": 2}, (2, False)),
        ({"split": "blocked", "gap_slices": 5}, (5, False)),
    ],
)
def test_a_training_says_how_many_slices_lie_between_its_sets(here, data, gap):
    record = trained(make_cell(here / "dataset.h5", **data))
    assert (record["gap_slices"], record["gap_capped"]) == gap


def test_whole_slices_of_overlapping_tiles_are_tested_that_no_training_tile_is_of(here):
    source = open_source(here / "dataset.h5", DataConfig(tiles="cover", tile_size=16))
    assert len(source.tiles) == 9 * 30
    train, validation, test = (
        set(source.tiles[rows, 0].tolist()) for rows in (source.split.train, source.split.validation, source.split.test)
    )
    assert not train & test and not train & validation and not validation & test
    side_by_side = open_source(here / "dataset.h5", DataConfig(tiles="2x2", tile_size=16))
    assert set(side_by_side.tiles[side_by_side.split.train, 0].tolist()) & set(side_by_side.test_slices().tolist())


def test_a_training_that_has_begun_on_other_tiles_of_a_slice_does_not_go_on(here):
    cell = make_cell(here / "dataset.h5", epochs=2, tiles="cover")
    assert run_cell(cell.folder, "train", should_stop=lambda: True) == "stopped"
    content = checkpoint.load(cell.folder.checkpoint_file)
    content["origin"]["data.split"] = "shuffled"  # as it was written when tiles were divided one by one
    checkpoint.save(cell.folder.checkpoint_file, content)
    with pytest.raises(HpcsegError, match=r"data\.split is shuffled there and shuffled by slices here"):
        trained(cell)


def test_a_model_of_another_split_is_refused_with_what_may_have_changed_and_what_to_do(here):
    cell = make_cell(here / "dataset.h5", tiles="cover")
    write_record(cell.folder.training_file, {**trained(cell), "split_sha256": "0" * 64})
    told = r"An older hpcseg divided tiles that overlap, .* move .*cells/cover-.* away and run `hpcseg grid` again"
    with pytest.raises(HpcsegError, match=told):
        run_cell(cell.folder, "evaluate", should_stop=lambda: False)


def test_a_job_with_a_gap_that_was_not_measured_is_refused_before_anything_runs(here):
    import h5py

    Path("positions.toml").write_text(JOB)
    with h5py.File("dataset.h5", "r+") as file:
        del file.attrs["alike_slices"]
        file.attrs["schema_version"] = 2
    result = hpcseg("grid", "--job", "positions.toml", "--local")
    assert result.exit_code == 3 and "`hpcseg pack --force`, or set data.gap_slices to a number" in result.stderr
    assert not Path("runs").exists()
    result = hpcseg("grid", "--job", "positions.toml", "--local", "--dry-run", "--json", "--set", "data.gap_slices=2")
    assert result.exit_code == 0 and "gap-slices-2" in result.stdout
