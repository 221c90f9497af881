"""What a job runs: one stage of one cell, in every rank, under submitit. Pickled at submission, so it imports late.

A signal only sets a flag. The training loop sees it between two steps, writes its checkpoint there, and returns;
then the handler that submitit installed does what it is for: it stores this task again and requeues the job. Doing
that inside the signal handler would catch the weights in the middle of a step. The same happens without a signal when
the time limit would come before the end of the next steps.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn

import submitit

# How long a rank waits to be ended: by rank 0's requeue, or by Slurm after the grace time of a preemption.
_SECONDS_TO_BE_ENDED = 600.0
# Before a time limit there must be time for the step under way and one more, then for the checkpoint and the requeue.
_STEPS_IN_HAND = 2
_SECONDS_TO_LEAVE = 10.0


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
        """Run in one rank; returns "finished", or outside Slurm "busy".

        A stopped cell does not return: see `_StopFlag.hand_over`.
        """
        from hpcseg.runs.execute import run_cell
        from hpcseg.runs.record import CellFolder

        stop = _StopFlag()
        outcome = run_cell(CellFolder(Path(self.cell)), self.stage, should_stop=stop)
        if outcome == "stopped":
            stop.hand_over()
        stop.no_more()
        if outcome == "busy" and submitit.JobEnvironment().cluster == "slurm":
            # To Slurm a return would be a finished training, and its evaluation would start.
            raise SystemExit(f"another process is still running this cell ({self.stage})")
        return outcome

    def checkpoint(self) -> Any:
        """The task to run after the requeue: the same. The cell's own checkpoint says where it goes on."""
        return submitit.helpers.DelayedSubmission(self)


class ReportTask:
    """What follows when all cells of a submission have ended: another try for some, and the report.

    Args:
        run: absolute path of the run's folder.
    """

    def __init__(self, run: str) -> None:
        self.run = run

    def __call__(self) -> None:
        """Submits what `follow_up` finds, then runs `hpcseg report`; raises CalledProcessError when that fails."""
        import subprocess
        import sys

        from hpcseg.cluster.retry import follow_up
        from hpcseg.errors import HpcsegError, IncompleteError
        from hpcseg.runs.record import RunFolder

        try:
            submission = follow_up(RunFolder(Path(self.run)))
        except HpcsegError as error:
            # A site may forbid a job to submit jobs. What is missing is a hole in the report then.
            print(f"Nothing was tried again: {error}", flush=True)
        else:
            print("\n".join(submission.lines()) if submission else "hpcseg has changed, nothing was tried again.")
        report = subprocess.run([sys.executable, "-m", "hpcseg", "report", "--run", self.run], check=False)
        # No cell is finished yet: that is said in the log, and no failure of this job.
        if report.returncode != IncompleteError.exit_code:
            report.check_returncode()

    def checkpoint(self) -> Any:
        """A report that was interrupted starts again."""
        return submitit.helpers.DelayedSubmission(self)


class PredictTask:
    """Segments a part of a volume and goes on after a requeue.

    Args:
        out: absolute path of the prediction's folder.
        part: from 0.
        parts: of the volume.
    """

    def __init__(self, out: str, part: int, parts: int) -> None:
        self.out = out
        self.part = part
        self.parts = parts

    def __call__(self) -> str:
        """Write the slices of the part that are missing; returns "finished"."""
        from hpcseg.predict.request import begin, part_of, read_request
        from hpcseg.predict.whole import work

        stop = _StopFlag()
        prediction = begin(read_request(Path(self.out)))
        own = part_of(prediction.missing(), len(prediction.volume), self.part, self.parts)
        if not work(prediction, own, part=self.part, should_stop=stop):
            stop.hand_over()
        stop.no_more()
        return "finished"

    def checkpoint(self) -> Any:
        """The same: its journal says which slices are written."""
        return submitit.helpers.DelayedSubmission(self)


class JoinTask:
    """What follows when all parts of a prediction have ended: the files get their names, the fractions are added up.

    Args:
        out: absolute path of the prediction's folder.
    """

    def __init__(self, out: str) -> None:
        self.out = out

    def __call__(self) -> None:
        """Finish the prediction; raises IncompleteError where slices are missing."""
        from hpcseg.errors import IncompleteError
        from hpcseg.predict.request import begin, read_request
        from hpcseg.predict.whole import finish

        prediction = begin(read_request(Path(self.out)))
        missing = prediction.missing()
        if missing:
            raise IncompleteError(
                f"{len(missing)} slices of {self.out} are missing: see the logs of the parts in {self.out}/logs. The "
                "same `hpcseg predict` submits what is missing."
            )
        finish(prediction)

    def checkpoint(self) -> Any:
        """It starts again."""
        return submitit.helpers.DelayedSubmission(self)


class _StopFlag:
    """Callable that says whether this process has to stop: by the scheduler's signal, or for want of time."""

    def __init__(self) -> None:
        self._environment = submitit.JobEnvironment()
        self._end = _end_of_job() if self._environment.global_rank == 0 else None
        self._asked: float | None = None
        self._longest = 0.0
        self._out_of_time = False
        # submitit lets every deployment choose its signal, so its own answer is taken.
        self._requeue_signal: int = self._environment._usr_sig()
        self._received: set[int] = set()
        self._submitits = signal.signal(self._requeue_signal, self._note)
        signal.signal(signal.SIGTERM, self._note)

    def __call__(self) -> bool:
        """Asked between two steps, so it knows how long they take."""
        now = time.time()
        # Not before the first step: a limit that leaves time for one step only still gets the cell to its end.
        if self._asked is not None:
            self._longest = max(self._longest, now - self._asked)
            needed = _STEPS_IN_HAND * self._longest + _SECONDS_TO_LEAVE
            self._out_of_time = self._out_of_time or (self._end is not None and self._end - now < needed)
        self._asked = now
        return self._out_of_time or bool(self._received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received.add(number)

    def no_more(self) -> None:
        """The work is done: a signal that comes while the process ends must not make a failed job of it.

        Python's own handlers are gone by then, and the default of both signals is death.
        """
        for number in (self._requeue_signal, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    def hand_over(self) -> NoReturn:
        """Leave the process after the checkpoint was written.

        After submitit's signal, or before the time limit, the job goes back into the queue. SIGTERM alone is
        scancel, whose job must not come back, or a preemption without that signal. Slurm requeues a preempted job by
        itself, but only one that is still there at the end of its grace time: a job that leaves on SIGTERM has
        failed. So it waits to be ended.
        """
        deadline = time.monotonic() + (0 if self._environment.cluster == "local" else _SECONDS_TO_BE_ENDED)
        asked = False
        while True:
            # The signal may follow SIGTERM, or have reached another rank first.
            if (self._out_of_time or self._requeue_signal in self._received) and not asked:
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


def _end_of_job() -> float | None:
    """When Slurm will end this job, in seconds since 1970; None where there is no limit, or no Slurm to tell it."""
    job_id = os.environ.get("SLURM_JOB_ID")
    if job_id is None:
        return None
    told = os.environ.get("SLURM_JOB_END_TIME", "")
    if told.isdigit():
        return float(told)
    from hpcseg.cluster.scheduler import end_of_job

    return end_of_job(job_id)
