"""A stand-in for Slurm's commands, and a grid's submissions to it. The real one is in tests/slurm."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpcseg.cluster import ledger
from hpcseg.cluster.profile import Profile, Resources, resolve
from hpcseg.cluster.submit import submit_missing
from hpcseg.numerics import NUMERICS
from hpcseg.runs.folder import CellFolder
from hpcseg.runs.grid import Grid
from hpcseg.runs.record import SCHEMA, read_lines, write_record
from hpcseg.runs.schema import Evaluated, Provenance, Trained


class FakeSlurm:
    """Commands on PATH: sbatch numbers scripts from 100 and keeps them, squeue lists what it is told, scancel notes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command("srun", "true")
        self.command("scontrol", 'echo "MaxArraySize = 1001"')
        self.command("sacct", "true")
        self.command("scancel", 'echo "$@" >> cancelled')
        self.accept()
        self.queue()

    def command(self, name: str, body: str) -> None:
        script = self.folder / name
        script.write_text(f"#!/bin/sh\ncd {self.folder}\n{body}\n")
        script.chmod(0o755)

    def accept(self) -> None:
        self.command(
            "sbatch",
            'id=$(($(ls *.script 2>/dev/null | wc -l) + 100)); cp "$1" $id.script; env > $id.env\n'
            'echo "Submitted batch job $id"',
        )

    def queue(self, *lines: str) -> None:
        """Lines as `squeue --format=%i|%T|%r|%N` prints them."""
        (self.folder / "queue").write_text("".join(f"{line}\n" for line in lines))
        self.command("squeue", "cat queue")

    def silent(self) -> None:
        for name in ("squeue", "sacct", "scontrol"):
            self.command(name, "exit 1")

    def scripts(self) -> list[str]:
        return [path.read_text() for path in sorted(self.folder.glob("*.script"))]

    def options(self, name: str) -> list[str | None]:
        """One option of every script, in the order of submission."""
        found = [
            [line.partition("=")[2] for line in text.splitlines() if f"--{name}=" in line] for text in self.scripts()
        ]
        return [(values or [None])[0] for values in found]


def resources(grid: Grid, **options: object) -> Resources:
    return resolve(grid.job.needs, Profile(), Profile(**options))  # type: ignore[arg-type]


def send(grid: Grid, *, dry_run: bool = False, resubmit: bool = False, **options: object) -> list[str]:
    return submit_missing(grid, resources(grid, **options), dry_run=dry_run, resubmit=resubmit).lines()


def booked(grid: Grid) -> list[tuple[str, str, str]]:
    """Stage, cell and job of everything that the ledger says was submitted."""
    lines = [line for line in read_lines(grid.run.submissions_file) if line["event"] == "submitted"]
    return [
        (line["stage"], cell_id, job_id)
        for line in lines
        for task, job_id in zip(line["cells"] or ["all"], ledger.task_ids(line["job"], len(line["cells"])), strict=True)
        for cell_id in ([task] if isinstance(task, str) else task)
    ]


def trained(folder: CellFolder) -> None:
    """Writes what a trained cell has."""
    counted = {"epochs": 2, "steps": 2, "train_tiles": 1, "validation_tiles": 1, "parameters": 1}
    found = {"validation_loss": 0.5, "validation_confusion": [[9, 1], [0, 0]]}
    write_record(folder.training_file, Trained(**_made(folder.id), **counted, **found).as_dict())
    folder.model_file.touch()


def train(grid: Grid, index: int) -> None:
    trained(grid.cells[index].folder)


def evaluate(grid: Grid, index: int) -> None:
    cell = grid.cells[index]
    counted = {"settings": asdict(cell.config.evaluate), "test_tiles": 1, "class_values": [0, 1], "points": []}
    write_record(cell.folder.evaluation_file, Evaluated(**_made(cell.id), **counted).as_dict())


def _made(cell_id: str) -> dict[str, Any]:
    """What the records of a training and of its evaluation have in common."""
    how = {"precision": "fp32", "world_size": 1, "seconds": 1.0, "provenance": Provenance(numerics=NUMERICS)}
    return {"schema": SCHEMA, "id": cell_id, "model_sha256": "0" * 64, **how}
