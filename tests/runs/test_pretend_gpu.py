"""A whole cell on a GPU that only says it is one: no devices are mixed, no step waits, and the bits are the CPU's."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pretend_gpu import pretend_gpu

from hpcseg.learn import checkpoint
from hpcseg.predict.model_file import open_cell
from hpcseg.runs.execute import run_cell
from hpcseg.runs.finding import plan_run
from hpcseg.runs.grid import Cell, write_plan
from hpcseg.segment.network import Network, Wishes

_JOB = """
[data]
tile_size = 32
tiles = "1x2"
[train]
width = 4
depth = 2
epochs = 2
batch_size = {batch}
weight_decay = 1e-3
noise_fraction = 0.5
noise_model = "gaussian+poisson"
noise_each_epoch = true
augment = "symmetries+exposure"
schedule = "one-cycle"
loss = "cross-entropy+dice"
class_weights = "frequency"
precision = "{precision}"
[evaluate]
sweep_max = 1000
whole_slices = true
examples = true
mixed_fraction = 0.5
other_noise = "poisson"
[needs]
gpus = 1
[[grid]]
train.seed = 0
"""
_PRECISIONS = ("fp32", "bf16", "fp16")


@pytest.fixture(autouse=True)
def _neither_checkpoints_nor_threads(monkeypatch):
    # A checkpoint waits once, and on a slow machine one more would be due.
    monkeypatch.setenv("HPCSEG_CHECKPOINT_SECONDS", "1e9")
    # More are no help for tensors as small as these.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def _plan(folder: Path, data: Path, *, precision: str, batch: int = 7) -> Cell:
    folder.mkdir()
    (folder / "job.toml").write_text(_JOB.format(batch=batch, precision=precision))
    grid = plan_run(str(folder / "job.toml"), data, folder / "run", ())
    write_plan(grid)
    return grid.cells[0]


def _train(cell: Cell, *, on_gpu: bool, stop_at: int = 0) -> dict[str, int]:
    """What made the host wait; the training is stopped once, before step `stop_at`, unless that is 0."""
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_at

    with pretend_gpu() if on_gpu else contextlib.nullcontext() as gpu:
        if stop_at:
            assert run_cell(cell.folder, "train", should_stop=should_stop) == "stopped"
        assert run_cell(cell.folder, "train", should_stop=lambda: False) == "finished"
        return dict(gpu.waits) if gpu else {}


def _numbers(cell: Cell, *, on_gpu: bool) -> list:
    """The hash of the weights, the line of each epoch, and the counts of an evaluation: of its noise levels, and of its
    test slices, whole and in tiles."""
    with pretend_gpu() if on_gpu else contextlib.nullcontext():
        assert run_cell(cell.folder, "evaluate", should_stop=lambda: False) == "finished"
    evaluation = json.loads(cell.folder.evaluation_file.read_text())
    training = json.loads(cell.folder.training_file.read_text())
    texts = [file.read_text() for file in (cell.folder.metrics_file, cell.folder.slices_file)]
    return [training["model_sha256"], evaluation["points"], *texts]


@pytest.mark.parametrize("precision", _PRECISIONS)
def test_a_cell_on_a_gpu_is_that_on_a_cpu_also_when_it_was_stopped(tmp_path, tiny_dataset, precision):
    ended = []
    for name, on_gpu, stop_at in (("cpu", False, 0), ("gpu", True, 6)):
        cell = _plan(tmp_path / name, tiny_dataset, precision=precision)
        _train(cell, on_gpu=on_gpu, stop_at=stop_at)
        ended.append(_numbers(cell, on_gpu=on_gpu))
    assert ended[0] == ended[1]


@pytest.mark.parametrize("precision", _PRECISIONS)
def test_no_step_makes_the_host_wait(tmp_path, tiny_dataset, precision):
    few, many = (
        _train(_plan(tmp_path / f"{batch}", tiny_dataset, precision=precision, batch=batch), on_gpu=True)
        for batch in (14, 7)
    )
    # A capture waits once, and every few steps the host lets the GPU come near.
    of_graphs = {place for place in many if place.startswith("learn/captured.py")}
    assert bool(of_graphs) == (precision != "fp16")
    few, many = ({place: waits[place] for place in waits.keys() - of_graphs} for waits in (few, many))
    assert few and few == many


def test_a_checkpoint_makes_the_host_wait_once_however_many_tensors_it_has(tmp_path, tiny_dataset, monkeypatch):
    saved, save, waits, metrics = [], checkpoint.save, [], []

    def noted(file: Path, *rest: object, **named: object) -> None:
        saved.append(file.name)
        save(file, *rest, **named)

    monkeypatch.setattr(checkpoint, "save", noted)
    for seconds in ("1e9", "0"):
        monkeypatch.setenv("HPCSEG_CHECKPOINT_SECONDS", seconds)
        cell = _plan(tmp_path / seconds, tiny_dataset, precision="bf16")
        saved.clear()
        waits.append(_train(cell, on_gpu=True, stop_at=4))
        metrics.append(cell.folder.metrics_file.read_text())
        of_saves = [waits[-1].pop(place) for place in list(waits[-1]) if place.startswith("learn/checkpoint.py")]
        assert sum(of_saves) == saved.count("checkpoint.pt") >= (1 if seconds == "1e9" else 6)
    assert metrics[0] == metrics[1]
    others = [{place: number for place, number in of.items() if "captured" not in place} for of in waits]
    assert others[0] == others[1]


def test_the_pretended_gpu_notices_mixed_devices_and_waits():
    with pretend_gpu() as gpu:
        here, there = torch.ones(3), torch.ones(3, device="cuda")
        with pytest.raises(RuntimeError, match="same device"):
            here + there
        with pytest.raises(TypeError, match="cuda:0"):
            there.numpy()
        assert not gpu.waits
        assert float(there.sum()) == 3
        assert sum(gpu.waits.values()) == 1


def test_a_pretended_graph_knows_the_numbers_of_its_capture_and_undoes_it():
    with pretend_gpu() as gpu:
        total, graph = torch.zeros(1, device="cuda"), torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()
        given = 3
        with torch.cuda.graph(graph, pool=torch.cuda.graph_pool_handle(), stream=side):
            total.add_(given)
            total.mul_(2)
        assert float(total) == 0
        given = 4
        graph.replay()
        graph.replay()
        assert float(total) == (3 * 2 + 3) * 2
        with torch.cuda.stream(side):
            total.add_(1)
        with pytest.raises(AssertionError, match="does not wait"):
            total.add_(1)
        torch.cuda.current_stream().wait_stream(side)
        total.add_(1)
        waits = sum(gpu.waits.values())
        with pytest.raises(RuntimeError, match="not permitted"), torch.cuda.graph(graph, pool=object(), stream=side):
            float(total)
        assert sum(gpu.waits.values()) == waits + 1


def test_a_training_says_whether_its_steps_were_graphs_which_change_no_bit(tmp_path, tiny_dataset, monkeypatch):
    weights = []
    for wish in ("0", "1"):
        monkeypatch.setenv("HPCSEG_GRAPHS", wish)
        cell = _plan(tmp_path / wish, tiny_dataset, precision="bf16")
        _train(cell, on_gpu=True)
        training = json.loads(cell.folder.training_file.read_text())
        assert [start["graphs"] for start in training["starts"]] == [wish == "1"]
        weights.append(training["model_sha256"])
    assert weights[0] == weights[1]


def test_a_prediction_on_a_gpu_is_that_on_a_cpu(tmp_path, tiny_dataset):
    cell = _plan(tmp_path / "cell", tiny_dataset, precision="bf16")
    _train(cell, on_gpu=False)
    image = np.random.default_rng(0).random((71, 58), dtype=np.float32)
    everything = {"probabilities": True, "uncertainty": True, "spread": True, "flips": True}
    for wishes in (Wishes(), Wishes(**everything), Wishes(**everything, tile=40)):
        models = [open_cell(cell.folder).trained()] * 2
        network = Network(models, wishes, torch.device("cpu"))
        expected = network.answer(image, network.tile_edge(*image.shape))
        with pretend_gpu():
            network = Network(models, wishes, torch.device("cuda", 0))
            found = network.answer(image, network.tile_edge(*image.shape))
        for name, value in vars(expected).items():
            np.testing.assert_array_equal(getattr(found, name), value)
