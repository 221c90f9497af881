"""The second cell of a process: what it asks the machine for, and what its record says of itself alone."""

from __future__ import annotations

import sys
from pathlib import Path

from hpcseg.config import CellConfig, DataConfig, EvaluateConfig, NeedsConfig, ReportConfig, TrainConfig
from hpcseg.data.store import read_info
from hpcseg.jobfile import JobConfig
from hpcseg.runs.execute import run_cell
from hpcseg.runs.grid import Cell, plan, write_plan
from hpcseg.runs.record import RunFolder


def make_cell(folder: Path, dataset: Path, **train: int) -> Cell:
    config = CellConfig(
        data=DataConfig(tile_size=32),
        train=TrainConfig(**{"width": 2, "depth": 1, "epochs": 1, "batch_size": 7, **train}),
        evaluate=EvaluateConfig(sweep_max=1000),
    )
    job = JobConfig(name="test", title="test", cells=(config,), needs=NeedsConfig(), report=ReportConfig())
    grid = plan(job, RunFolder(folder), dataset, read_info(dataset).data_sha256)
    write_plan(grid)
    return grid.cells[0]


def run(cell: Cell) -> None:
    for stage in ("train", "evaluate"):
        assert run_cell(cell.folder, stage, should_stop=lambda: False) == "finished"


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
