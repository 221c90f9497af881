"""One rank of a job on this machine: `python -m hpcseg.cluster.worker RUN CELL...`, as submitit's controller starts it.

What it has to do stands on its command line, and what became of it in the cells' files and in its log: no pickle.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import submitit
from submitit.core.logger import get_logger

from hpcseg.cluster.tasks.cell import CellsTask
from hpcseg.runs.folder import RunFolder

_MODULE = "hpcseg.cluster.worker"


def command(run: RunFolder, cells: Sequence[str]) -> list[str]:
    """The command of a rank, which tells from it whose process it is."""
    # Safe path: a module of the current folder must not stand in for one of ours.
    return [sys.executable, "-P", "-u", "-m", _MODULE, str(run.path.resolve()), *cells]


def is_of(arguments: Sequence[str], run: RunFolder, cell: str) -> bool:
    """Whether a command is one that `command` has made for this run and, among others, this cell.

    The frozen code may be another version's, with another interpreter.
    """
    found = arguments.index(_MODULE) if _MODULE in arguments else len(arguments)
    return [*arguments[found + 1 : found + 2]] == [str(run.path.resolve())] and cell in arguments[found + 2 :]


def main(run: str, *cells: str) -> None:
    """Run cells in this rank."""
    get_logger().info(f"Starting with {submitit.JobEnvironment()}")  # as in the log of a job of Slurm
    CellsTask(run, cells)()


if __name__ == "__main__":
    main(*sys.argv[1:])
