"""A data set that changes after a grid was planned on it: the next cell refuses, and nothing is mixed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from slice_folder import hpcseg

from hpcseg.data.pack import pack
from hpcseg.data.sample import write_sample
from hpcseg.runs import alone

JOB = '[data]\ntile_size = 16\n[train]\nwidth = 1\ndepth = 1\nepochs = 1\nprecision = "fp32"\n'


def pack_here():
    pack(Path("data"), Path("labels"), Path("dataset.h5"), command="test")


def change_a_pixel():
    file = Path("data/sample0003.tiff")
    pixels = tifffile.imread(file)
    tifffile.imwrite(file, np.where(pixels == pixels.max(), pixels - 1, pixels))
    pack_here()


def change_a_number():
    for file in (Path("data/sample0008.tiff"), Path("labels/sample0008.tif")):
        file.rename(file.with_stem("sample0009"))
    pack_here()


def cut_short():
    file = Path("dataset.h5")
    file.write_bytes(file.read_bytes()[:-1])


@pytest.fixture
def train_after(tmp_path, monkeypatch):
    """The outcome of `hpcseg train` for a cell between whose plan and start something happens."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(JOB)
    write_sample(tmp_path, slices=8, size=32, seed=0)
    pack_here()
    write_plan = alone.write_plan

    def train(change):
        monkeypatch.setattr(alone, "write_plan", lambda planned: (write_plan(planned), change()))
        return hpcseg("train", "*", "--job", "tiny.toml")

    return train


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (change_a_pixel, 3, "dataset.h5 holds other data than when the cell"),
        (change_a_number, 3, "dataset.h5 holds other data than when the cell"),
        (cut_short, 3, "dataset.h5 is damaged"),
        (lambda: Path("dataset.h5").unlink(), 3, "There is no packed data set"),
    ],
)
def test_a_cell_whose_data_changed_after_the_plan_refuses_in_one_sentence(train_after, change, code, told):
    result = train_after(change)
    assert result.exit_code == code, result.output
    began, refusal = result.stderr.splitlines()
    assert began.endswith(": training")
    assert refusal.startswith("error: ") and told in refusal
    (cell,) = Path("runs/tiny/cells").iterdir()
    assert told in json.loads((cell / "failure.json").read_text())["error"]
    assert not {path.name for path in cell.iterdir()} & {"checkpoint.pt", "model.pt", "training.json"}


def test_the_same_data_packed_again_is_no_change(train_after):
    result = train_after(pack_here)
    assert result.exit_code == 0, result.output
