"""What a running cell says about itself: progress.json every few seconds, and which checkpoints it has lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from hpcseg.errors import HpcsegError
from hpcseg.learn.ranks import Ranks
from hpcseg.runs.grid import Cell
from hpcseg.runs.machine import describe_process
from hpcseg.runs.record import append_event, write_json
from hpcseg.runs.schema import Beat

# Often at first, since a cell may take seconds, and then ever less often, since it may take days.
_LEAST_SECONDS_BETWEEN = 0.5
_MOST_SECONDS_BETWEEN = 5.0
_SHARE_BETWEEN = 0.1


class Heartbeat:
    """Writes progress.json every few seconds, from rank 0, so that anyone can see how far the cell is.

    Args:
        cell: that runs.
        stage: of it.
        ranks: that run it.
        note: what to say of this start beside its steps; "" where nothing is unusual.
    """

    def __init__(self, cell: Cell, stage: str, ranks: Ranks, note: str = "") -> None:
        self._cell = cell
        self._stage = stage
        self._note = note
        self._active = ranks.is_main
        self._where = describe_process(ranks)
        self._began = self._written = time.monotonic()
        self._steps = 0
        self._beaten = False

    def beat(self, *, epoch: int, step: int, steps_per_epoch: int) -> None:
        """Called after every step; most calls only look at the clock. The first writes at once."""
        now = time.monotonic()
        self._steps += 1
        elapsed = now - self._written
        between = min(max(_SHARE_BETWEEN * (now - self._began), _LEAST_SECONDS_BETWEEN), _MOST_SECONDS_BETWEEN)
        if not self._active or (self._beaten and elapsed < between):
            return
        seconds, self._steps, self._written, self._beaten = elapsed / self._steps, 0, now, True
        beat = Beat(
            stage=self._stage,
            epoch=epoch,
            epochs=self._cell.config.train.epochs if self._stage == "train" else 1,
            step=step,
            steps_per_epoch=steps_per_epoch,
            seconds_per_step=round(seconds, 4),
            host=self._where["host"],
            pid=self._where["pid"],
            job_id=self._where["slurm_job_id"],
            time=round(time.time(), 3),
            note=self._note,
        )
        # A disk that is full for a moment must not end a training that has nothing else to write now.
        with contextlib.suppress(HpcsegError):
            write_json(self._cell.folder.progress_file, beat.as_dict(), durable=False)


def say_what_is_lost(cell: Cell, complaints: Sequence[str], *, begins: str) -> str:
    """Tell of checkpoints that cannot be gone on with, in the cell's events and in its log.

    Args:
        cell: whose they are.
        complaints: a sentence about each.
        begins: where the stage begins now.

    Returns:
        The note for its heartbeat; "" without complaints.
    """
    for complaint in complaints:
        append_event(cell.folder.events_file, "damaged", what=complaint)
        print(complaint, flush=True)
    if not complaints:
        return ""
    note = f"its last checkpoint cannot be used, so it begins at {begins}"
    print(note, flush=True)
    return note
