"""What a job runs: one stage of one cell, in every rank, under submitit. Pickled at submission, so it imports late.

A signal only sets a flag. The training loop sees it between two steps, writes its checkpoint there, and returns;
then the handler that submitit installed does what it is for: it stores this task again and requeues the job. Doing
that inside the signal handler would catch the weights in the middle of a step.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import submitit

# How long a rank waits for rank 0 to requeue the job, which ends all ranks.
_SECONDS_TO_REQUEUE = 120.0


class CellTask:
    """Runs one stage of one cell and goes on after a requeue.

    Args:
        cell: absolute path of the cell's folder.
        stage: "train" or "evaluate".
    """

    def __init__(self, cell: str, stage: Literal["train", "evaluate"]) -> None:
        self.cell = cell
        self.stage = stage

    def __call__(self) -> str:
        """Run in one rank; returns "finished" or "busy". A stopped cell does not return: see `_StopFlag.hand_over`."""
        from hpcseg.runs.execute import run_cell
        from hpcseg.runs.record import CellFolder

        stop = _StopFlag()
        outcome = run_cell(CellFolder(Path(self.cell)), self.stage, should_stop=stop)
        if outcome == "stopped":
            stop.hand_over()
        return outcome

    def checkpoint(self) -> Any:
        """The task to run after the requeue: the same. The cell's own checkpoint says where it goes on."""
        return submitit.helpers.DelayedSubmission(self)


class ReportTask:
    """Builds the report of a run when its cells have ended.

    Args:
        run: absolute path of the run's folder.
    """

    def __init__(self, run: str) -> None:
        self.run = run

    def __call__(self) -> None:
        """Runs the command that a user would type; raises CalledProcessError when it fails."""
        import subprocess
        import sys

        subprocess.run([sys.executable, "-m", "hpcseg", "report", "--run", self.run], check=True)

    def checkpoint(self) -> Any:
        """A report that was interrupted starts again."""
        return submitit.helpers.DelayedSubmission(self)


class _StopFlag:
    """Callable that says whether the scheduler wants this process to stop."""

    def __init__(self) -> None:
        # submitit lets every deployment choose its signal, so its own answer is taken.
        self._requeue_signal: int = submitit.JobEnvironment._usr_sig()
        self._received: set[int] = set()
        self._submitits = signal.signal(self._requeue_signal, self._note)
        signal.signal(signal.SIGTERM, self._note)

    def __call__(self) -> bool:
        return bool(self._received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received.add(number)

    def hand_over(self) -> None:
        """Leave the process after the checkpoint was written; never returns.

        After submitit's signal the job goes back into the queue. SIGTERM alone is scancel, or a preemption after
        which Slurm requeues by itself: a job that came back from scancel would surprise its owner.
        """
        if self._requeue_signal not in self._received:
            raise SystemExit(f"stopped by {signal.Signals(min(self._received)).name}; the checkpoint is written")
        assert callable(self._submitits)
        self._submitits(self._requeue_signal, None)  # exits on rank 0, returns on the others
        # A rank that ended first would make srun kill rank 0 before it has requeued (--kill-on-bad-exit).
        time.sleep(_SECONDS_TO_REQUEUE)
        raise SystemExit(f"rank 0 did not requeue the job within {_SECONDS_TO_REQUEUE:.0f} s")
