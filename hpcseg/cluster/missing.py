"""What is missing of a grid: its cells' files and what Slurm says of their jobs in, what to submit out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from hpcseg.cluster import ledger, scheduler
from hpcseg.cluster.ledger import Ledger
from hpcseg.runs.grid import Cell, Grid
from hpcseg.runs.record import RunFolder


@dataclass(frozen=True)
class Missing:
    """What is missing of a grid, by how it is submitted."""

    train: list[Cell] = field(default_factory=list)
    """Need a training, and an evaluation behind it."""
    evaluate: list[Cell] = field(default_factory=list)
    """Are trained and need an evaluation."""
    follow: list[tuple[Cell, str]] = field(default_factory=list)
    """Their training (job id) is in Slurm, but no evaluation: a call was interrupted between the two."""
    left_alone: dict[str, str] = field(default_factory=dict)
    """Cell id to why Slurm has it already, or may have: what nobody else should begin."""


def find_missing(grid: Grid, *, resubmit: bool, only: Collection[str] | None = None) -> Missing:
    """Look what is neither finished nor in Slurm.

    Args:
        grid: of the run.
        resubmit: cells of which Slurm does not tell whether they still run count as gone.
        only: ids of the cells to look at; None: all.
    """
    missing = Missing()
    booked = ledger.read(grid.run)
    jobs = booked.slurm_jobs()
    states = scheduler.ask(jobs.values(), booked.users)
    for cell in grid.cells:
        if cell.evaluated():
            continue
        if only is not None:
            if cell.id not in only:
                continue
            # Its plan is left as it is, and without one a job could only fail.
            if why := cell.unplanned():
                missing.left_alone[cell.id] = why
                continue
        stages = ("evaluate",) if cell.trained() else ("train", "evaluate")
        known = {stage: jobs[cell.id, stage] for stage in stages if (cell.id, stage) in jobs}
        if known and states is None and not resubmit:
            missing.left_alone[cell.id] = (
                f"submitted as job {', '.join(known.values())}, and neither squeue nor sacct nor scontrol answers. "
                "Submit it again with --resubmit if you know that it is gone"
            )
            continue
        found = {stage: (states or {}).get(job_id) for stage, job_id in known.items()}
        alive = {stage: state for stage, state in found.items() if state is not None and not state.ended}
        if not cell.trained() and "train" not in alive and "evaluate" in alive and alive["evaluate"].word == "PENDING":
            # It waits for a training that has died, in vain, and Slurm removes it in its own time.
            del alive["evaluate"]
        for stage, state in alive.items():
            missing.left_alone[cell.id] = f"{stage} is job {known[stage]}, {state.state}"
        if "evaluate" in alive:
            continue
        if "train" in alive:
            missing.follow.append((cell, known["train"]))
        else:
            (missing.evaluate if cell.trained() else missing.train).append(cell)
    return missing


def strange_jobs(run: RunFolder, booked: Ledger) -> str:
    """What to say of jobs in the queue that carry a token of this run and are not in its ledger; else empty.

    A ledger that was emptied or cut has them no more, and which cells they are for nobody knows.
    """
    found = scheduler.comments(ledger.tag(run)) or {}
    strange = sorted(job for job, token in found.items() if booked.tokens.get(token, "") not in (None, job))
    if not strange:
        return ""
    return (
        f"Slurm has jobs of {run.path} that its submissions.jsonl does not know ({', '.join(strange)}), so that was "
        f"emptied or changed. Put it back, wait for them, or cancel them with `scancel {' '.join(strange)}`."
    )
