"""A trained cell and its model file, small enough to make in a second or two."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcseg.data.store import read_info
from hpcseg.jobfile import load_job
from hpcseg.predict.model_file import Model, export, open_cell, open_file
from hpcseg.runs.execute import run_cell
from hpcseg.runs.folder import CellFolder, RunFolder
from hpcseg.runs.grid import plan, write_plan

JOB = """
[train]
width = 4
depth = 2
epochs = 5
batch_size = 4
noise_fraction = 0.5
[[grid]]
data.tiles = "2x2"
data.tile_size = 64
train.precision = "fp32"
train.seed = [0, 1]
"""


@pytest.fixture(scope="session")
def cells(tiny_dataset, tmp_path_factory) -> list[CellFolder]:
    """Two trained cells that differ in their seed: width 4, depth 2, tiles of 64 x 64."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "job.toml").write_text(JOB)
    grid = plan(
        load_job(folder / "job.toml"), RunFolder(folder / "run"), tiny_dataset, read_info(tiny_dataset).data_sha256
    )
    write_plan(grid)
    for cell in grid.cells:
        for stage in ("train", "evaluate"):
            assert run_cell(cell.folder, stage, should_stop=lambda: False) == "finished"
    return [cell.folder for cell in grid.cells]


@pytest.fixture(scope="session")
def model_files(cells, tmp_path_factory) -> list[Path]:
    """The model files of `cells`."""
    folder = tmp_path_factory.mktemp("models")
    files = [folder / f"seed{number}.safetensors" for number in range(len(cells))]
    for cell, file in zip(cells, files, strict=True):
        export(open_cell(cell), file)
    return files


@pytest.fixture(scope="session")
def model_file(model_files) -> Path:
    """The first of `model_files`."""
    return model_files[0]


@pytest.fixture(scope="session")
def model(model_file) -> Model:
    """The model in `model_file`."""
    return open_file(model_file)
