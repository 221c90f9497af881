"""Cells in, cells done, on this machine: a bounded queue over submitit's local executor, which has none itself.

A slot runs one cell at a time: its training, then its evaluation. What became of a cell is read from its files,
since the executor calls every ended process finished.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit

from hpcseg.cluster import ledger
from hpcseg.cluster.tasks.cell import CellTask
from hpcseg.errors import ConfigError, IncompleteError
from hpcseg.runs import gpus
from hpcseg.runs.frozen import freeze, in_frozen
from hpcseg.runs.grid import Cell
from hpcseg.runs.record import RunFolder, read_json
from hpcseg.runs.state import Stage, State
from hpcseg.signals import like_ctrl_c

OnEvent = Callable[[State, Cell, dict[str, Any]], None]
"""Told where a cell stands, whenever that changes or its heart beats."""

_SECONDS_BETWEEN_LOOKS = 0.5
# submitit ends a local job at its limit; a cell here has none, and a month is as good.
_NO_LIMIT_MINUTES = 30 * 24 * 60
# After one rank has failed, the others wait for it in vain.
_SECONDS_FOR_OTHER_RANKS = 15.0
# At the end of a stage rank 0 stays longer, to write the model.
_SECONDS_BETWEEN_ENDS = 60.0
# submitit's controller gives its ranks a second to end.
_SECONDS_TO_END = 10.0


@dataclass
class Summary:
    """Ids of the cells by what became of them."""

    finished: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)


@dataclass
class _Running:
    cell: Cell
    stage: Stage
    job: submitit.Job[str]
    ranks: int
    started: float
    """In UTC seconds; what failure.json says of an earlier attempt is older."""
    progress: float = 0.0
    complete: bool = False
    """All ranks have been seen alive."""
    failed_at: float | None = None
    lost_at: float | None = None


def find_slots(workers: int | None, gpus_per_cell: int) -> list[tuple[int, ...]]:
    """One entry per cell that may run at a time: the indices of its GPUs, none on a machine without.

    Args:
        workers: how many cells at a time; None: one per GPU (or per group of `gpus_per_cell`), else one.
        gpus_per_cell: GPUs of one cell; 0: it is to run on the CPU.

    Raises:
        ConfigError: fewer GPUs than one cell needs.
    """
    found = _visible_gpus() if gpus_per_cell else []
    if not found:
        return [()] * (workers or 1)
    size = gpus_per_cell
    groups = [tuple(found[start : start + size]) for start in range(0, len(found) - size + 1, size)]
    if not groups:
        raise ConfigError(f"One cell wants {size} GPUs, but {len(found)} are visible here. Lower --gpus-per-node.")
    return [groups[slot % len(groups)] for slot in range(workers or len(groups))]


def run_locally(
    cells: Sequence[Cell], run: RunFolder, *, slots: Sequence[tuple[int, ...]], ranks: int, on_event: OnEvent
) -> Summary:
    """Train and evaluate cells, one per slot at a time, until all are finished or have failed.

    Args:
        cells: of the run, with their config.json written; finished ones are passed over.
        run: where logs go.
        slots: from `find_slots`.
        ranks: processes per cell.
        on_event: told what happens. Details are {"stage"} for STARTED, the content of progress.json for RUNNING and
            EVALUATING, that of failure.json with "log" for FAILED, and nothing for FINISHED and BUSY.

    Returns:
        What became of each cell. A failed cell never stops the others. KeyboardInterrupt, and with it the signals
        of a closed terminal and of a shutdown, ends all running cells and is raised again.
    """
    if len(slots) > 1:
        cores = len(os.sched_getaffinity(0))
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // (len(slots) * ranks))))
    # The queue may run for hours, and starts a process for each stage: all of them run the code of now.
    code = freeze(run)
    waiting = deque(cells)
    running: dict[int, _Running] = {}
    summary = Summary()
    with like_ctrl_c():
        try:
            while waiting or running:
                for slot, visible in enumerate(slots):
                    if slot not in running and waiting:
                        running[slot] = _start(waiting.popleft(), run, code, visible, ranks)
                        on_event(State.STARTED, running[slot].cell, {"stage": running[slot].stage})
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                for slot, current in list(running.items()):
                    if not _look(current, on_event):
                        continue
                    del running[slot]
                    if _conclude(current, summary, on_event):
                        waiting.appendleft(current.cell)
        finally:
            _end([current.job for current in running.values()])
    return summary


def _start(cell: Cell, run: RunFolder, code: Path, visible: tuple[int, ...], ranks: int) -> _Running:
    executor = submitit.LocalExecutor(run.logs)
    executor.update_parameters(
        timeout_min=_NO_LIMIT_MINUTES,
        tasks_per_node=ranks,
        gpus_per_node=len(visible),
        visible_gpus=visible,
        stderr_to_stdout=True,
    )
    stage: Stage = "evaluate" if cell.trained() else "train"
    started = time.time()
    task = CellTask(str(cell.folder.path.resolve()), stage)
    with in_frozen(code):  # in another current folder
        job = executor.submit(task)
    ledger.book_local(run, stage, cell.id, str(job.job_id))
    return _Running(cell, stage, job, ranks, started)


def _look(current: _Running, on_event: OnEvent) -> bool:
    """Whether the job has ended; passes progress on, and ends a job of which a rank has failed."""
    if current.job.done():
        return True
    try:
        progress = read_json(current.cell.folder.progress_file)
    except IncompleteError:
        progress = {"time": 0.0}
    if progress["time"] > current.progress:
        current.progress = progress["time"]
        on_event(State.RUNNING if current.stage == "train" else State.EVALUATING, current.cell, progress)
    now = time.monotonic()
    if _failure(current) is not None:
        current.failed_at = current.failed_at or now
    alive = _live_ranks(current.job)
    current.complete = current.complete or alive == current.ranks
    if current.complete and alive is not None and alive < current.ranks:
        # Killed, perhaps for its memory: it left no word.
        current.lost_at = current.lost_at or now
    if (current.failed_at is not None and now - current.failed_at > _SECONDS_FOR_OTHER_RANKS) or (
        current.lost_at is not None and now - current.lost_at > _SECONDS_BETWEEN_ENDS
    ):
        _end([current.job])
    return False


def _live_ranks(job: submitit.Job[str]) -> int | None:
    """How many ranks of a job are alive: the children of its controller, which is the job's id; None: unknown."""
    try:
        return len(Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split())
    except OSError:
        return None


def _end(jobs: Sequence[submitit.Job[str]]) -> None:
    """End jobs and wait for it, so that the cells are free when this returns."""
    for job in jobs:
        job.cancel()
    deadline = time.monotonic() + _SECONDS_TO_END
    while time.monotonic() < deadline and not all(job.done() for job in jobs):
        time.sleep(0.1)


def _conclude(current: _Running, summary: Summary, on_event: OnEvent) -> bool:
    """Book an ended job; True if the cell has its next stage before it."""
    cell = current.cell
    if cell.evaluated():
        summary.finished.append(cell.id)
        on_event(State.FINISHED, cell, {})
        return False
    if current.stage == "train" and cell.trained():
        return True
    if _was_busy(current.job):
        summary.busy.append(cell.id)
        on_event(State.BUSY, cell, {})
        return False
    failure = _failure(current) or {"error": "the process ended without a word, perhaps killed for its memory"}
    summary.failed.append(cell.id)
    on_event(State.FAILED, cell, {**failure, "log": str(current.job.paths.stdout)})
    return False


def _failure(current: _Running) -> dict[str, Any] | None:
    """What this attempt says of its failure; an earlier one's word stays until the new ranks have met."""
    try:
        failure = read_json(current.cell.folder.failure_file)
    except IncompleteError:
        return None
    return failure if failure.get("time", 0.0) >= current.started else None


def _was_busy(job: submitit.Job[str]) -> bool:
    if not job.paths.result_pickle.exists():
        return False
    # The pickle was written by the process that we started a moment ago, in our own run folder.
    return job.exception() is None and State.BUSY in job.results()


def _visible_gpus() -> list[int]:
    """Indices of the GPUs that this process may use, without loading torch."""
    if gpus.hidden():
        return []
    inherited = os.environ.get("CUDA_VISIBLE_DEVICES")
    if inherited is not None:
        listed = [part.strip() for part in inherited.split(",")]
        if all(part.isdigit() for part in listed):
            return [int(part) for part in listed]
        raise ConfigError(
            f"CUDA_VISIBLE_DEVICES is {inherited}, but cells are given GPUs by their numbers. Set it to numbers of "
            "`nvidia-smi -L`, such as 0,1."
        )
    return list(range(gpus.count()))
