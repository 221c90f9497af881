"""Slurm's answers for whoever looks at a run again and again: Slurm is to be asked seldom, files may be read often."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence

from hpcseg.cluster import scheduler
from hpcseg.cluster.scheduler import JobState

_SECONDS_BETWEEN_QUESTIONS = 30.0


class Remembered:
    """Answers of Slurm's that are kept for half a minute, and those about an end for good."""

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._asked_of = frozenset[str]()
        self._answers: dict[str, JobState] | None = None
        self._ends: dict[str, JobState] = {}
        self._without_an_end: set[str] = set()
        self._own: tuple[float, Mapping[str, tuple[str, str]] | None] | None = None

    def ask(
        self, job_ids: Iterable[str], users: Sequence[str] = (), others: Collection[str] = ()
    ) -> dict[str, JobState] | None:
        """Of a job that was not asked about before nothing is remembered: its absence would be taken for its end."""
        wanted = frozenset(job_ids)
        if self._asked_at is None or _is_old(self._asked_at) or not wanted <= self._asked_of:
            self._answers = scheduler.ask(wanted, users, others)
            self._asked_at, self._asked_of = time.monotonic(), wanted
            self._without_an_end.clear()
            for job_id, job in (self._answers or {}).items():
                if not job.ended:
                    # It was put back into the queue.
                    self._ends.pop(job_id, None)
        return self._answers

    def history(self, job_ids: Iterable[str]) -> dict[str, JobState]:
        """Asked for once where there was a word of an end, and else as often as the queue."""
        wanted = set(job_ids)
        if unknown := wanted - self._ends.keys() - self._without_an_end:
            self._ends |= scheduler.history(unknown)
            self._without_an_end |= unknown - self._ends.keys()
        return {job_id: self._ends[job_id] for job_id in wanted & self._ends.keys()}

    def own_jobs(self) -> Mapping[str, tuple[str, str]] | None:
        """Those of the last half minute."""
        if self._own is None or _is_old(self._own[0]):
            self._own = (time.monotonic(), scheduler.own_jobs())
        return self._own[1]

    def ask_anew(self) -> None:
        """Have the next question about the queue asked of Slurm."""
        self._asked_at = None


def _is_old(asked_at: float) -> bool:
    return time.monotonic() - asked_at >= _SECONDS_BETWEEN_QUESTIONS
