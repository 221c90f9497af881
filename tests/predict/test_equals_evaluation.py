"""`hpcseg predict` finds on the test slices of a cell what the cell's record says, to the pixel."""

from __future__ import annotations

import dataclasses
import json

import h5py
import numpy as np
import pytest
from finished_cells import planned
from predicted_slices import predicted, recorded

from hpcseg.config import CellConfig, DataConfig, EvaluateConfig, TrainConfig
from hpcseg.data.store import read_info
from hpcseg.predict.model_file import export, open_cell
from hpcseg.runs.execute import run_cell
from hpcseg.runs.grid import Cell, read_cell
from hpcseg.runs.record import write_record

PRECISIONS = ("fp32", "bf16")


@pytest.fixture(scope="module")
def trained(tiny_dataset, tmp_path_factory) -> dict[str, Cell]:
    """Cells by their precision; what the hardware cannot multiply in is emulated."""
    configs = [
        CellConfig(
            data=DataConfig(tiles="2x2", tile_size=64),
            train=TrainConfig(width=4, depth=2, epochs=4, batch_size=4, learning_rate=0.003, precision=precision),
            evaluate=EvaluateConfig(whole_slices=True, examples=True),
        )
        for precision in PRECISIONS
    ]
    grid = planned(tmp_path_factory.mktemp("exact"), tiny_dataset, *configs)
    for cell in grid.cells:
        assert run_cell(cell.folder, "train", should_stop=lambda: False) == "finished"
    return dict(zip(PRECISIONS, grid.cells, strict=True))


def evaluated(cell: Cell, tile: int) -> Cell:
    """The cell with an evaluation whose slices are cut into tiles of this edge."""
    planned = json.loads(cell.folder.config_file.read_text())
    settings = dataclasses.replace(cell.config.evaluate, tile=tile)
    write_record(cell.folder.config_file, {**planned, "evaluate": dataclasses.asdict(settings)})
    assert run_cell(cell.folder, "evaluate", should_stop=lambda: False) == "finished"
    return read_cell(cell.folder)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("tile", "edge"), [(0, None), (64, 64), (50, 52), (1000, None)])
def test_predicting_the_test_slices_gives_the_matrices_of_the_record(
    trained, tiny_dataset, tmp_path, precision, tile, edge
):
    """Of 128 pixels a side: tiles of 64 are nine that overlap, and of 50, rounded up to what a U-Net halves twice."""
    cell = evaluated(trained[precision], tile)
    assert json.loads(cell.folder.evaluation_file.read_text())["tile_edge"] == edge
    expected = recorded(cell.folder)
    assert len(expected) > 5 and all(np.count_nonzero(np.sum(matrix, 0)) > 1 for matrix in expected.values())
    export(open_cell(cell.folder), tmp_path / "model.safetensors")
    options = ("--tile", tile) if tile else ()
    for name, model in (("cell", cell.folder.path), ("file", tmp_path / "model.safetensors")):
        # What else is asked does not change the labels.
        more = ("--probabilities",) if name == "file" else ()
        found = predicted(model, tiny_dataset, tmp_path / name, *options, *more)
        assert {number: found[number] for number in expected} == expected
        record = json.loads((tmp_path / name / "prediction.json").read_text())
        assert record["asked"]["precision"] is None
        assert [start["precision"] for start in record["starts"]] == [precision]
    with np.load(cell.folder.examples_file) as pictures, h5py.File(tmp_path / "cell" / "labels.h5") as labels:
        index = read_info(tiny_dataset).numbers.tolist().index(int(pictures["slice_number"]))
        values = np.array(read_info(tiny_dataset).class_values)
        np.testing.assert_array_equal(values[pictures["slice_prediction"]], labels["labels"][index])


def test_another_precision_gives_other_matrices(trained, tiny_dataset, tmp_path):
    """So that the tests above would notice one."""
    cell = evaluated(trained["bf16"], 0)
    found = predicted(cell.folder.path, tiny_dataset, tmp_path / "out", "--precision", "fp32")
    expected = recorded(cell.folder)
    assert {number: found[number] for number in expected} != expected
