"""The second cell of a process: what it asks the machine for, and what its record says of itself alone."""

from __future__ import annotations

import json
import sys
import weakref
from pathlib import Path

import pytest
from pretend_gpu import pretend_gpu

from hpcseg import memory
from hpcseg.config import CellConfig, DataConfig, EvaluateConfig, NeedsConfig, ReportConfig, TrainConfig
from hpcseg.data.store import read_info
from hpcseg.errors import HpcsegError
from hpcseg.jobfile import JobConfig
from hpcseg.learn import checkpoint
from hpcseg.learn.loop import Trainer
from hpcseg.runs.alone import run_alone
from hpcseg.runs.execute import run_cell
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Cell, plan, read_grid, write_plan
from hpcseg.runs.inputs import Handed
from hpcseg.runs.state import Stage


def make_cell(folder: Path, dataset: Path, **train: int | str) -> Cell:
    config = CellConfig(
        data=DataConfig(tile_size=64, tiles="2x2"),
        train=TrainConfig(**{"width": 2, "depth": 1, "epochs": 1, "batch_size": 7, **train}),
        evaluate=EvaluateConfig(sweep_max=1000),
    )
    job = JobConfig(name="test", title="test", cells=(config,), needs=NeedsConfig(), report=ReportConfig())
    grid = plan(job, RunFolder(folder), dataset, read_info(dataset).data_sha256)
    write_plan(grid)
    return grid.cells[0]


def run(cell: Cell, handed: Handed | None = None, stages: tuple[Stage, ...] = ("train", "evaluate")) -> None:
    for stage in stages:
        assert run_cell(cell.folder, stage, should_stop=lambda: False, handed=handed) == "finished"


def test_versions_processor_and_commit_are_asked_for_once_per_process(tmp_path, tiny_dataset):
    first, second = (make_cell(tmp_path / name, tiny_dataset) for name in ("first", "second"))
    run(first)
    asked, noting = list[str](), True

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if noting and event in ("open", "subprocess.Popen"):
            asked.append(f"{event} {arguments[0]}")

    sys.addaudithook(note)  # there is no way to take one away
    run(second)
    noting = False
    assert any(str(tmp_path) in line for line in asked)
    once = ("Popen", "/proc/cpuinfo", "/proc/driver", "METADATA", "/etc/os-release", "origin.json")
    assert [line for line in asked if any(name in line for name in once)] == []


def peaks(cell: Cell) -> list[dict[str, int]]:
    """Of its training and of its evaluation, in MiB."""
    records = (cell.folder.training_file, cell.folder.evaluation_file)
    return [json.loads(record.read_text())["peak_memory_mib"] for record in records]


def test_a_small_cell_behind_a_large_one_has_a_peak_of_its_own(tmp_path, tiny_dataset):
    # A tensor of the first block is 11 MiB there, and a step holds some dozens.
    large = make_cell(tmp_path / "large", tiny_dataset, width=16, batch_size=44, precision="fp32")
    small = make_cell(tmp_path / "small", tiny_dataset)
    for cell in (large, small):
        run(cell)
    assert peaks(large)[0]["host"] - max(peak["host"] for peak in peaks(small)) > 150


def test_where_the_kernel_cannot_forget_a_peak_it_is_that_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "none" / "clear_refs")
    held = bytearray(b"1") * 2**28
    before = memory.peak_bytes()
    del held
    memory.forget_peak()
    assert memory.peak_bytes() == pytest.approx(before, rel=0.02), "Linux counts pages in batches, for each processor"


def test_a_small_cell_behind_a_large_one_has_a_peak_of_its_own_on_a_gpu(tmp_path, tiny_dataset):
    cell = make_cell(tmp_path, tiny_dataset)
    with pretend_gpu() as gpu:
        gpu.peak = 2**30
        run(cell)
    assert [peak["gpu"] for peak in peaks(cell)] == [1, 1]


def test_an_evaluation_takes_the_model_of_its_training_in_the_same_process_and_finds_the_same(
    tmp_path, tiny_dataset, monkeypatch
):
    by_file, by_hand = (make_cell(tmp_path / name, tiny_dataset) for name in ("file", "hand"))
    run(by_file)
    load = checkpoint.load
    monkeypatch.setattr(checkpoint, "load", lambda path: pytest.fail(f"{path.name} is read"))
    assert run_alone(read_grid(RunFolder(tmp_path / "hand")), by_hand, say=print) == "finished"
    records = [json.loads(cell.folder.evaluation_file.read_text()) for cell in (by_file, by_hand)]
    assert len({record["model_sha256"] for record in records}) == 1
    assert records[0]["points"] == records[1]["points"]
    saved = load(by_hand.folder.model_file)
    assert records[1]["model_sha256"] == checkpoint.weights_sha256(saved)


def test_a_model_that_is_handed_to_another_cell_is_refused(tmp_path, tiny_dataset):
    one, other = (make_cell(tmp_path / str(seed), tiny_dataset, seed=seed) for seed in (0, 1))
    run(other, stages=("train",))
    handed = Handed()
    run(one, handed, stages=("train",))
    with pytest.raises(HpcsegError, match=r"model\.pt is not the model of training\.json"):
        run(other, handed, stages=("evaluate",))
    assert not handed.weights, "nothing keeps their memory"


def test_nothing_of_a_training_is_in_memory_when_the_cell_is_evaluated(tmp_path, tiny_dataset, monkeypatch):
    cell, made = make_cell(tmp_path, tiny_dataset), []
    restore = Trainer.restore
    monkeypatch.setattr(
        Trainer, "restore", lambda self, content: (made.append(weakref.ref(self)), restore(self, content))
    )
    run(cell, stages=("train",))
    # With its model, tiles and states of the optimizer, on a GPU too; whether Python looks for circles soon is chance.
    assert [one() for one in made] == [None]
