"""Whether a task has to stop, by the scheduler's signal or for want of time, and how its process then leaves.

A signal only sets a flag. The training loop sees it between two steps, writes its checkpoint there, and returns;
then the handler that submitit installed does what it is for: it stores this task again and requeues the job. Doing
that inside the signal handler would catch the weights in the middle of a step. The same happens without a signal when
the time limit would come before the end of the next steps.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import NoReturn

import submitit

from hpcseg.cluster.scheduler import end_of_job

# How long a rank waits to be ended: by rank 0's requeue, or by Slurm after the grace time of a preemption.
_SECONDS_TO_BE_ENDED = 600.0
# Before a time limit there must be time for the step under way and one more, then for the checkpoint and the requeue.
_STEPS_IN_HAND = 2
_SECONDS_TO_LEAVE = 10.0


class StopFlag:
    """Callable that says whether this process has to stop: by the scheduler's signal, or for want of time."""

    def __init__(self) -> None:
        self._environment = submitit.JobEnvironment()
        self.alone = self._environment.num_tasks == 1
        """This process is the job's only rank."""
        self._end = _end_of_job() if self._environment.global_rank == 0 else None
        self._asked: float | None = None
        self._longest = 0.0
        self._out_of_time = False
        # submitit lets every deployment choose its signal, so its own answer is taken.
        self._requeue_signal: int = self._environment._usr_sig()
        self._received: set[int] = set()
        self._submitits = signal.signal(self._requeue_signal, self._note)
        signal.signal(signal.SIGTERM, self._note)

    @property
    def received(self) -> bool:
        """Whether a signal has come, or the time is up."""
        return self._out_of_time or bool(self._received)

    def begin(self) -> None:
        """Other work begins: what lies between it and what was before is no step."""
        self._asked, self._longest = None, 0.0

    def __call__(self) -> bool:
        """Asked between two steps, so it knows how long they take."""
        now = time.time()
        # Not before the first step: a limit that leaves time for one step only still gets the cell to its end.
        if self._asked is not None:
            self._longest = max(self._longest, now - self._asked)
            needed = _STEPS_IN_HAND * self._longest + _SECONDS_TO_LEAVE
            self._out_of_time = self._out_of_time or (self._end is not None and self._end - now < needed)
        self._asked = now
        return self.received

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
            wanted = self._out_of_time or self._requeue_signal in self._received
            if wanted and not asked and callable(self._submitits):  # outside Slurm nobody has installed one
                asked = True
                self._submitits(self._requeue_signal, None)  # exits on rank 0, returns on the others
            if time.monotonic() >= deadline:
                break
            time.sleep(0.5)
        if self._environment.global_rank:
            # Ending in error first would make srun kill rank 0 before it has requeued (--kill-on-bad-exit).
            raise SystemExit(0)
        # Not 0: to Slurm that would be a finished training, and its evaluation would start.
        raise SystemExit("told to stop; the checkpoint is written")


def _end_of_job() -> float | None:
    """When Slurm will end this job, in seconds since 1970; None where there is no limit, or no Slurm to tell it."""
    job_id = os.environ.get("SLURM_JOB_ID")
    if job_id is None:
        return None
    told = os.environ.get("SLURM_JOB_END_TIME", "")
    if told.isdigit():
        return float(told)
    return end_of_job(job_id)
