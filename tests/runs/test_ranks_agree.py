"""One, two and three ranks do the same experiment; a stopped one goes on as if it had been left alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from finished_cells import planned
from rank_runner import run_cell_stage, run_ranks

from hpcseg.config import CellConfig, DataConfig, EvaluateConfig, TrainConfig
from hpcseg.runs.grid import Cell
from hpcseg.runs.record import read_lines


def make_cell(folder: Path, dataset: Path, **train: object) -> Cell:
    # 22 training tiles in batches of 7: the last batch is one tile, so that of three ranks two get none of it.
    settings = {
        "width": 4,
        "depth": 2,
        "epochs": 2,
        "batch_size": 7,
        "noise_fraction": 0.5,
        "precision": "fp32",
        # Sums over all ranks, and what depends on the step that they have in common.
        "loss": "cross-entropy+dice",
        "class_weights": "frequency",
        "schedule": "cosine",
        **train,
    }
    config = CellConfig(
        data=DataConfig(tiles="1x2", tile_size=64),
        train=TrainConfig(**settings),
        evaluate=EvaluateConfig(sweep_max=2000),
    )
    return planned(folder, dataset, config).cells[0]


def weights(cell: Cell) -> dict[str, torch.Tensor]:
    return torch.load(cell.folder.model_file, weights_only=True)


def metrics(cell: Cell) -> list[dict]:
    return [json.loads(line) for line in cell.folder.metrics_file.read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_dataset):
    """Cells by the number of ranks."""
    cells = {}
    for ranks in (1, 2, 3):
        cells[ranks] = make_cell(tmp_path_factory.mktemp(f"ranks{ranks}"), tiny_dataset)
        assert set(run_ranks(ranks, run_cell_stage, cells[ranks].folder.path, "train")) == {"finished"}
    return cells


@pytest.mark.parametrize("ranks", [2, 3])
def test_losses_and_weights_of_more_ranks_agree_to_rounding(trained, ranks):
    for one, several in zip(metrics(trained[1]), metrics(trained[ranks]), strict=True):
        # fp32 has 24 bits; sums over a batch and 8 steps of Adam stay within a few hundred units of rounding.
        assert several["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
        assert several["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-3)
        assert np.sum(several["validation_confusion"]) == np.sum(one["validation_confusion"])
    for name, tensor in weights(trained[1]).items():
        torch.testing.assert_close(weights(trained[ranks])[name], tensor, rtol=5e-3, atol=5e-3)
    sizes = [trained[count].folder.model_file.stat().st_size for count in (1, ranks)]
    assert sizes[0] == sizes[1], "the file holds the weights and nothing else"


def _called_in_a_step(folder: Path) -> tuple[str, set[str]]:
    """The type of what a step calls, and those of its batch normalisations."""
    from hpcseg.learn import loop

    found = []

    class Step(loop.TrainStep):
        def __init__(self, model, *rest, **named):
            found.append(
                (type(model).__name__, {type(m).__name__ for m in model.modules() if "Norm" in type(m).__name__})
            )
            super().__init__(model, *rest, **named)

    loop.TrainStep = Step
    assert run_cell_stage(folder, "train") == "finished"
    return found[0]


@pytest.mark.parametrize(
    ("ranks", "model", "norm"), [(1, "UNet", "BatchNorm2d"), (2, "DistributedDataParallel", "SyncBatchNorm")]
)
def test_several_ranks_call_torchs_own_ddp(tmp_path, tiny_dataset, ranks, model, norm):
    cell = make_cell(tmp_path, tiny_dataset, epochs=1)
    assert run_ranks(ranks, _called_in_a_step, cell.folder.path) == [(model, {norm})] * ranks


def test_several_ranks_give_equal_confusion_matrices_for_equal_weights(trained, tmp_path, tiny_dataset):
    matrices = []
    for ranks in (1, 2, 3):
        cell = make_cell(tmp_path / str(ranks), tiny_dataset)
        for file in ("model_file", "training_file"):
            getattr(cell.folder, file).write_bytes(getattr(trained[1].folder, file).read_bytes())
        assert set(run_ranks(ranks, run_cell_stage, cell.folder.path, "evaluate")) == {"finished"}
        record = json.loads(cell.folder.evaluation_file.read_text())
        matrices.append((record["points"], record["label_interfaces"]))
    assert matrices[0] == matrices[1] == matrices[2]
    first = matrices[0][0][0]
    assert np.sum(first["confusion"]) == 5 * 64 * 64, "32 tiles leave 5 for the test, each counted once"
    assert np.sum(matrices[0][1]) > 0 and np.sum(first["near_edge"]["1"]) > 0


@pytest.mark.parametrize(("ranks", "steps"), [(1, 1), (1, 6), (2, 5)])
def test_a_stopped_training_goes_on_as_if_it_had_been_left_alone(trained, tmp_path, tiny_dataset, ranks, steps):
    cell = make_cell(tmp_path, tiny_dataset)
    assert set(run_ranks(ranks, run_cell_stage, cell.folder.path, "train", steps)) == {"stopped"}
    assert cell.folder.checkpoint_file.exists() and not cell.folder.training_file.exists()
    assert set(run_ranks(ranks, run_cell_stage, cell.folder.path, "train")) == {"finished"}
    assert cell.folder.metrics_file.read_bytes() == trained[ranks].folder.metrics_file.read_bytes()
    for name, tensor in weights(trained[ranks]).items():
        assert torch.equal(weights(cell)[name], tensor), name


def test_a_checkpoint_before_every_step_changes_nothing(trained, tmp_path, tiny_dataset, monkeypatch):
    monkeypatch.setenv("HPCSEG_CHECKPOINT_SECONDS", "0")
    cell = make_cell(tmp_path, tiny_dataset)
    assert set(run_ranks(2, run_cell_stage, cell.folder.path, "train")) == {"finished"}
    assert cell.folder.metrics_file.read_bytes() == trained[2].folder.metrics_file.read_bytes()
    for name, tensor in weights(trained[2]).items():
        assert torch.equal(weights(cell)[name], tensor), name


def test_a_damaged_checkpoint_costs_time_and_changes_nothing(trained, tmp_path, tiny_dataset):
    cell = make_cell(tmp_path, tiny_dataset)
    for steps in (2, 3):  # the second stop keeps the first one's checkpoint
        assert set(run_ranks(1, run_cell_stage, cell.folder.path, "train", steps)) == {"stopped"}
    cell.folder.checkpoint_file.write_bytes(cell.folder.checkpoint_file.read_bytes()[:-1000])
    assert set(run_ranks(1, run_cell_stage, cell.folder.path, "train")) == {"finished"}
    events = read_lines(cell.folder.events_file)
    (damaged,) = [event for event in events if event["event"] == "damaged"]
    assert "checkpoint.pt cannot be read as a checkpoint" in damaged["what"]
    assert [event["event"] for event in events].count("start") == 1, "it went on from the one before"
    for name, tensor in weights(trained[1]).items():
        assert torch.equal(weights(cell)[name], tensor), name
    assert not list(cell.folder.path.glob("checkpoint*")), "a finished training needs none"


def _what_a_rank_says_that_sees_no_checkpoint(folder: Path, blind: int) -> str:
    from hpcseg.learn import checkpoint

    if int(os.environ["SUBMITIT_LOCAL_GLOBALID"]) == blind:
        checkpoint.load_newest = lambda *_: (None, [])
    try:
        return run_cell_stage(folder, "train")
    except Exception as error:
        return str(error)


@pytest.mark.parametrize("blind", [0, 1])
def test_a_rank_that_sees_no_checkpoint_is_told_so_on_all_ranks(tmp_path, tiny_dataset, blind):
    cell = make_cell(tmp_path, tiny_dataset, precision="auto")
    assert set(run_ranks(2, run_cell_stage, cell.folder.path, "train", 5)) == {"stopped"}
    said = run_ranks(2, _what_a_rank_says_that_sees_no_checkpoint, cell.folder.path, blind)
    assert all(text.startswith("The ranks read different checkpoints") for text in said), said


def test_a_training_that_goes_on_with_another_number_of_ranks_agrees_to_rounding(trained, tmp_path, tiny_dataset):
    cell = make_cell(tmp_path, tiny_dataset)
    assert set(run_ranks(2, run_cell_stage, cell.folder.path, "train", 5)) == {"stopped"}
    assert set(run_ranks(1, run_cell_stage, cell.folder.path, "train")) == {"finished"}
    record = json.loads(cell.folder.training_file.read_text())
    assert [start["world_size"] for start in record["starts"]] == [2, 1]
    assert record["peak_memory_mib"]["host"] > 50
    for one, mixed in zip(metrics(trained[1]), metrics(cell), strict=True):
        assert mixed["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
