"""What a cell's job runs, in every rank: one stage of the cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import submitit

from hpcseg.cluster.tasks.stop import StopFlag
from hpcseg.runs.state import Stage, State


class CellTask:
    """Runs one stage of one cell and goes on after a requeue.

    Args:
        cell: absolute path of the cell's folder.
        stage: "train" or "evaluate".
    """

    def __init__(self, cell: str, stage: Stage) -> None:
        self.cell = cell
        self.stage = stage

    def __call__(self) -> State:
        """Run in one rank; returns FINISHED.

        A stopped cell does not return: see `StopFlag.hand_over`. Nor does one that another process runs: to Slurm a
        return would be a finished training, and its evaluation would start.
        """
        from hpcseg.runs.execute import run_cell
        from hpcseg.runs.record import CellFolder

        stop = StopFlag()
        outcome = run_cell(CellFolder(Path(self.cell)), self.stage, should_stop=stop)
        if outcome is State.STOPPED:
            stop.hand_over()
        stop.no_more()
        if outcome is State.BUSY:
            raise SystemExit(f"another process is still running this cell ({self.stage})")
        return outcome

    def checkpoint(self) -> Any:
        """The task to run after the requeue: the same. The cell's own checkpoint says where it goes on."""
        return submitit.helpers.DelayedSubmission(self)
