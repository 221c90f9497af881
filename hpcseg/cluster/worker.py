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
from typing import Any, Literal, NoReturn

import submitit

# How long a rank waits to be ended: by rank 0's requeue, or by Slurm after the grace time of a preemption.
_SECONDS_TO_BE_ENDED = 600.0


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
        self._environment = submitit.JobEnvironment()
        # submitit lets every deployment choose its signal, so its own answer is taken.
        self._requeue_signal: int = self._environment._usr_sig()
        self._received: set[int] = set()
        self._submitits = signal.signal(self._requeue_signal, self._note)
        signal.signal(signal.SIGTERM, self._note)

    def __call__(self) -> bool:
        return bool(self._received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received.add(number)

    def hand_over(self) -> NoReturn:
        """Leave the process after the checkpoint was written.

        After submitit's signal the job goes back into the queue. SIGTERM alone is scancel, whose job must not come
        back, or a preemption without that signal. Slurm requeues a preempted job by itself, but only one that is
        still there at the end of its grace time: a job that leaves on SIGTERM has failed. So it waits to be ended.
        """
        deadline = time.monotonic() + (0 if self._environment.cluster == "local" else _SECONDS_TO_BE_ENDED)
        asked = False
        while True:
            # The signal may follow SIGTERM, or have reached another rank first.
            if self._requeue_signal in self._received and not asked:
                asked = True
                assert callable(self._submitits)
                self._submitits(self._requeue_signal, None)  # exits on rank 0, returns on the others
            if time.monotonic() >= deadline:
                break
            time.sleep(0.5)
        if self._environment.global_rank:
            # Ending in error first would make srun kill rank 0 before it has requeued (--kill-on-bad-exit).
            raise SystemExit(0)
        # Not 0: to Slurm that would be a finished training, and its evaluation would start.
        raise SystemExit("stopped by the scheduler; the checkpoint is written")
