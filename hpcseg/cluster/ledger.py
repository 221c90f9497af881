"""submissions.jsonl: which job was submitted for which cell and stage, and the lock under which it grows."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterable, Iterator

from hpcseg.errors import SchedulerError
from hpcseg.runs.provenance import command_line
from hpcseg.runs.record import RunFolder, append_event, read_lines

_SECONDS_FOR_LOCK = 120.0


def submitted(run: RunFolder) -> dict[tuple[str, str], str]:
    """The id of the job that was submitted last for each (cell id, stage)."""
    return {(line["cell"], line["stage"]): line["job_id"] for line in read_lines(run.submissions_file)}


def book(run: RunFolder, stage: str, jobs: Iterable[tuple[str, str]]) -> None:
    """Write down (cell id, job id) of what was just submitted."""
    for cell_id, job_id in jobs:
        append_event(
            run.submissions_file, "submitted", cell=cell_id, stage=stage, job_id=job_id, command=command_line()
        )


@contextlib.contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Hold the run's lock, so that two `hpcseg grid` at one moment submit one after the other.

    Raises:
        SchedulerError: another process holds it for two minutes.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + _SECONDS_FOR_LOCK
    with run.lock_file.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SchedulerError(
                        f"Another `hpcseg grid` has been submitting to {run.path} for {_SECONDS_FOR_LOCK / 60:.0f} "
                        "minutes. Wait for it, or end it, then try again."
                    ) from None
                time.sleep(0.2)
            except OSError:
                # Some shared file systems have no locks; there the cells' own files and the queue must do.
                break
        yield
