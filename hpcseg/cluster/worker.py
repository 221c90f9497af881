"""One rank of a cell on this machine: `python -m hpcseg.cluster.worker CELL STAGE`, as submitit's controller starts it.

What it has to do stands on its command line, and what became of it in the cell's files and in its log: no pickle.
"""

from __future__ import annotations

import sys

import submitit
from submitit.core.logger import get_logger

from hpcseg.cluster.tasks.cell import CellTask
from hpcseg.runs.record import CellFolder
from hpcseg.runs.state import Stage


def command(folder: CellFolder, stage: Stage) -> list[str]:
    """The command of a rank, which tells from it whose process it is."""
    # Safe path: a module of the current folder must not stand in for one of ours.
    return [sys.executable, "-P", "-u", "-m", "hpcseg.cluster.worker", str(folder.path.resolve()), stage]


def main(cell: str, stage: Stage) -> None:
    """Run one stage of a cell in this rank."""
    get_logger().info(f"Starting with {submitit.JobEnvironment()}")  # as in the log of a job of Slurm
    CellTask(cell, stage)()


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]  # as `command` has put them there
