"""The same cell ends in the same bits on a GPU: twice, after a stop, and with its steps captured as graphs or not."""

from __future__ import annotations

import json

import pytest
import torch

from hpcseg.runs.execute import run_cell
from hpcseg.runs.grid import Cell

pytestmark = pytest.mark.gpu
PRECISIONS = ("fp32", "bf16", "fp16")


def _finish(cell: Cell, *, stop_at: int = 0) -> tuple[str, str]:
    """The hash of the weights, and the line of each epoch; stopped once before step `stop_at`, unless that is 0."""
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_at

    if stop_at:
        assert run_cell(cell.folder, "train", should_stop=should_stop) == "stopped"
    assert run_cell(cell.folder, "train", should_stop=lambda: False) == "finished"
    return json.loads(cell.folder.training_file.read_text())["model_sha256"], cell.folder.metrics_file.read_text()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_training_ends_in_the_same_bits_twice_and_after_stops(plan_cell, precision):
    # 22 training tiles are four steps an epoch: the first stop is in the middle of the first epoch, the second at the
    # last step of the second.
    ended = {stop_at: _finish(plan_cell(f"run{stop_at}", precision), stop_at=stop_at) for stop_at in (0, 3, 8)}
    again = _finish(plan_cell("again", precision))
    assert again == ended[0], "two runs"
    assert ended[3] == ended[8] == ended[0], "stopped and left alone"


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_steps_that_are_captured_end_in_the_bits_of_those_that_are_not(plan_cell, device, precision, monkeypatch):
    if precision == "tf32" and (device.type == "cpu" or torch.cuda.get_device_capability(device) < (8, 0)):
        return  # which is refused there, and tested in tests/learn
    ended = {}
    for wish in ("0", "1"):
        monkeypatch.setenv("HPCSEG_GRAPHS", wish)
        # The last step of an epoch has fewer tiles, and is captured before that of the fourth.
        cell = plan_cell(f"graphs{wish}", precision, epochs=6)
        ended[wish] = _finish(cell)
        (start,) = json.loads(cell.folder.training_file.read_text())["starts"]
        assert start["graphs"] == (wish == "1" and device.type == "cuda")
        again = plan_cell(f"stopped{wish}", precision, epochs=6)
        # After 13 steps: both sizes of batch are captured twice.
        assert _finish(again, stop_at=14) == ended[wish]
    assert ended["0"] == ended["1"]


def test_an_evaluation_counts_the_same_twice(plan_cell):
    cell = plan_cell("run", "bf16")
    _finish(cell)
    counted = []
    for _ in range(2):
        assert run_cell(cell.folder, "evaluate", should_stop=lambda: False) == "finished"
        counted.append(json.loads(cell.folder.evaluation_file.read_text())["points"])
        cell.folder.evaluation_file.unlink()
    assert counted[0] == counted[1]
