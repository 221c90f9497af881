"""What a job of cells runs, in every rank: cell after cell, training and evaluation, in one warm process."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from hpcseg.cluster.logs import mark
from hpcseg.cluster.tasks.stop import StopFlag
from hpcseg.runs.state import Stage, State

_STAGES: tuple[Stage, ...] = ("train", "evaluate")


@dataclass(frozen=True)
class CellsTask(submitit.helpers.Checkpointable):
    """Runs cells one after the other and goes on after a requeue, where the cells' own files say that they stand."""

    run: str
    """Absolute path of the run's folder."""
    cells: Sequence[str]
    """Their ids, in this order."""

    def __call__(self) -> str:
        """Run in one rank; returns "finished".

        What a cell fails of is in its failure.json, and ends no other; the job itself has failed then, behind all of
        them. A stopped job does not return: see `StopFlag.hand_over`.
        """
        from hpcseg.runs.folder import RunFolder

        stop = StopFlag()
        run, states = RunFolder(Path(self.run)), dict[str, State]()
        for cell in self.cells:
            states[cell] = self._one(run, cell, stop)
            _say(mark(cell, states[cell]))
            if states[cell] is State.STOPPED:
                stop.hand_over()
        stop.no_more()
        wrong = {cell: state for cell, state in states.items() if state in (State.FAILED, State.BUSY)}
        if wrong:
            raise SystemExit(f"{len(wrong)} of {len(states)} cells: {', '.join(map(' '.join, wrong.items()))}")
        return "finished"

    def _one(self, run: Any, cell: str, stop: StopFlag) -> State:
        from hpcseg.runs.execute import run_cell
        from hpcseg.runs.grid import read_cell
        from hpcseg.runs.inputs import Handed

        folder, handed, outcome = run.cell(cell), Handed(), State.FINISHED
        # Several ranks would have to agree; with them a failure ends the job, and there is nothing to pass over.
        if stop.alone and (stop.received or _failed_in_this_job(folder)):
            return State.STOPPED if stop.received else State.FAILED
        try:
            trained = read_cell(folder).trained()
            for stage in _STAGES:
                if stage == "evaluate" or not trained:
                    _say(mark(cell, stage))
                stop.begin()
                outcome = run_cell(folder, stage, should_stop=stop, handed=handed)
                if outcome is not State.FINISHED:
                    break
        except Exception:
            # Ranks that one has left wait for it, and a GPU after such an error is of no use to this process.
            if not stop.alone or _is_gpu_lost():
                raise
            traceback.print_exc()
            return State.FAILED
        if outcome is State.BUSY:
            _say(f"another process is still running this cell ({cell})")
        return outcome


def _say(line: str) -> None:
    """Print a line of the log; on a full disk the cell itself comes to tell of that."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


def _failed_in_this_job(folder: Any) -> bool:
    """Whether a cell has failed in this job before it was put back into the queue: it would do so again."""
    from hpcseg.runs.provenance import slurm_job
    from hpcseg.runs.told import read_failure

    job = slurm_job()
    failure = read_failure(folder)
    return job["slurm_restart_count"] is not None and bool(failure and failure.job_id == job["slurm_job_id"])


def _is_gpu_lost() -> bool:
    """Whether CUDA is in use and answers every call with the same error from now on."""
    import torch

    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
