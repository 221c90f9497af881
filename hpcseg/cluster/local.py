"""Cells in, cells done, on this machine: a bounded queue over submitit's local controllers.

A slot runs one job at a time, and a job one cell after the other: training, then evaluation. Where a job stands is read
from its log, and what became of a cell from its files: a controller ends alike whatever its ranks have met.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit.local.local

from hpcseg.cluster import ledger, worker
from hpcseg.cluster.failures import DISK_FULL, KILLED, without_a_word
from hpcseg.cluster.logs import read_mark
from hpcseg.cluster.processes import lives
from hpcseg.errors import ConfigError
from hpcseg.files import open_regular
from hpcseg.runs import gpus
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.frozen import freeze, in_frozen
from hpcseg.runs.grid import MOST_CELLS_OF_A_JOB, Cell
from hpcseg.runs.record import STOPS, append_event
from hpcseg.runs.schema import Failed
from hpcseg.runs.state import Stage, State
from hpcseg.runs.told import read_failure, read_progress, stopped_at
from hpcseg.runs.wish import forget_wish
from hpcseg.signals import Stop, out_of_reach

OnEvent = Callable[[State, Cell, dict[str, Any]], None]
"""Told where a cell stands, whenever that changes or its heart beats."""

_SECONDS_BETWEEN_LOOKS = 0.5
# submitit ends a local job at its limit; a cell here has none, and ten years are as good.
_NO_LIMIT_MINUTES = 10 * 365 * 24 * 60
# After one rank has failed, the others wait for it in vain.
_SECONDS_FOR_OTHER_RANKS = 15.0
# At the end of a stage rank 0 stays longer, to write the model.
_SECONDS_BETWEEN_ENDS = 60.0
# With several slots, so that none is at its last cells for long when the others have done theirs.
_JOBS_PER_SLOT = 4
# What a job says of a cell when it is done with it.
_ENDINGS = {state.value: state for state in (State.FINISHED, State.FAILED, State.BUSY, State.STOPPED, State.CANCELLED)}
# What is killed is gone at once, unless it waits for a disk.
_SECONDS_TO_END = 10.0
_WORDS = {
    DISK_FULL: "the process ended, and the disk is full: make room, or raise the quota, then start it again",
    KILLED: "the process ended without a word, perhaps killed for its memory",
}
# What it comes to that a terminal was closed, or (rich ends the program) who read from the pipe; it ends no cell.
_NOBODY_READS = (OSError, SystemExit)


Summary = dict[str, State]
"""What became of each cell, by its id: FINISHED, FAILED, BUSY, CANCELLED or STOPPED."""


@dataclass
class _Running:
    """A job."""

    cells: Sequence[Cell]
    controller: subprocess.Popen[bytes]
    """Of submitit; it starts the ranks and waits for them."""
    ranks: int
    log: Path
    """Of rank 0."""
    started: float
    """In UTC seconds; what failure.json says of an earlier attempt is older."""
    cell: Cell
    """At which it works; at first the one with which it begins."""
    told: tuple[str, str]
    """The last stage of a cell that was told as started."""
    read: int = 0
    """Bytes of the log that were looked at."""
    progress: float = 0.0
    complete: bool = False
    """All ranks have been seen alive."""
    failed_at: float | None = None
    lost_at: float | None = None
    asked: bool = False
    """To stop."""

    @property
    def job_id(self) -> str:
        """The number of the controller's process."""
        return str(self.controller.pid)

    def ended(self) -> bool:
        """Whether the controller has, and with it the ranks."""
        return self.controller.poll() is not None


def find_slots(workers: int | None, gpus_per_cell: int) -> list[tuple[str, ...]]:
    """One entry per cell that may run at a time: its GPUs by their names, none on a machine without.

    Args:
        workers: how many cells at a time; None: one per GPU (or per group of `gpus_per_cell`), else one.
        gpus_per_cell: GPUs of one cell; 0: it is to run on the CPU.

    Raises:
        ConfigError: fewer GPUs than one cell needs, or several that are parts of a GPU.
    """
    found = gpus.visible() if gpus_per_cell else ()
    if not found:
        return [()] * (workers or 1)
    size = gpus_per_cell
    if size > 1 and any(name.startswith("MIG-") for name in found):
        raise ConfigError(
            f"One cell wants {size} GPUs, but those that are visible here are parts of one (MIG), of which CUDA shows "
            "no more than one to a process. Use --gpus-per-node 1."
        )
    groups = [tuple(found[start : start + size]) for start in range(0, len(found) - size + 1, size)]
    if not groups:
        raise ConfigError(f"One cell wants {size} GPUs, but {len(found)} are visible here. Lower --gpus-per-node.")
    return [groups[slot % len(groups)] for slot in range(workers or len(groups))]


def run_locally(
    cells: Sequence[Cell],
    run: RunFolder,
    *,
    slots: Sequence[tuple[str, ...]],
    ranks: int,
    cells_per_job: int | None = None,
    on_event: OnEvent,
    on_stop: Callable[[], None] = lambda: None,
) -> Summary:
    """Train and evaluate cells, one per slot at a time, until all are finished or have failed.

    Ctrl-C, and with it the signals of a closed terminal and of a shutdown, stops the queue: the cells that run write
    their checkpoints at the step under way.

    Args:
        cells: of the run, with their config.json written; finished ones are passed over.
        run: where logs go.
        slots: from `find_slots`.
        ranks: processes per cell.
        cells_per_job: most cells of one process; None: all for one slot, for several few enough that they end together.
        on_event: told what happens. Details are {"stage"} for STARTED, {"beat"} for RUNNING and EVALUATING, {"error",
            "log"} for FAILED, and nothing for FINISHED, STOPPED and BUSY.
        on_stop: told when the queue is asked to stop.

    Returns:
        What became of each cell; STOPPED also where the queue did not come to it. A failed cell never stops the others.

    Raises:
        KeyboardInterrupt: a second Ctrl-C, which has ended the running cells at once.
    """

    def tell(state: State, cell: Cell, details: dict[str, Any]) -> None:
        with contextlib.suppress(*_NOBODY_READS):
            on_event(state, cell, details)

    if len(slots) > 1:
        cores = len(os.sched_getaffinity(0))
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // (len(slots) * ranks))))
    # The queue may run for hours, and starts several processes: all of them run the code of now.
    code = freeze(run)
    waiting = deque(cells)
    if cells_per_job is None:
        cells_per_job = len(cells) if len(slots) == 1 else -(-len(cells) // (_JOBS_PER_SLOT * len(slots)))
    most = max(1, min(cells_per_job, MOST_CELLS_OF_A_JOB))
    running: dict[int, _Running] = {}
    summary: Summary = {}
    with Stop() as stop:
        try:
            while running or (waiting and not stop()):
                for slot, visible in enumerate(slots):
                    if slot not in running and waiting and not stop():
                        own = [waiting.popleft() for _ in range(min(most, len(waiting)))]
                        running[slot] = _start(own, run, code, visible, ranks)
                        tell(State.STARTED, own[0], {"stage": running[slot].told[1]})
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                if stop():
                    _ask_to_stop(running.values(), on_stop)
                for slot, current in list(running.items()):
                    ended = current.ended()
                    _read_log(current, summary, tell)
                    if not ended:
                        _look(current, tell)
                        continue
                    del running[slot]
                    if current.cell.id not in summary:
                        _book(current, _how_it_ended(current), summary, tell)
                    # Whose turn had not come.
                    waiting.extendleft(cell for cell in reversed(current.cells) if cell.id not in summary)
        finally:
            _end(running.values())
            for current in running.values():
                if current.asked:
                    _note_stop(current)
    return summary | {cell.id: State.STOPPED for cell in waiting}


def _start(cells: Sequence[Cell], run: RunFolder, code: Path, visible: tuple[str, ...], ranks: int) -> _Running:
    # The controller starts in another current folder.
    ids = [cell.id for cell in cells]
    logs, command = run.logs.resolve(), shlex.join(worker.command(run, ids))
    # In a container the numbers of processes come again, and with them names of logs and of jobs.
    earlier = {path: path.stat().st_size for path in logs.glob("*_0_log.out") if path.is_file()}
    started = time.time()
    # A key on the terminal would reach the ranks as well, in the middle of a step.
    with in_frozen(code), out_of_reach():
        controller = submitit.local.local.start_controller(
            logs,
            command,
            tasks_per_node=ranks,
            cuda_devices=",".join(visible),
            timeout_min=_NO_LIMIT_MINUTES,
            stderr_to_stdout=True,
        )
    log, first = logs / f"{controller.pid}_0_log.out", cells[0]
    begun = _Running(cells, controller, ranks, log, started, first, (first.id, _stage(first)), earlier.get(log, 0))
    try:
        for cell in cells:
            forget_wish(cell.folder, str(controller.pid))
        ledger.book_local(run, ids, str(controller.pid))
    except BaseException:  # a full disk: what no command knows would run on unseen
        _end([begun])
        raise
    return begun


def _stage(cell: Cell) -> Stage:
    return "evaluate" if cell.trained() else "train"


def _read_log(current: _Running, summary: Summary, on_event: OnEvent) -> None:
    """Follow what the job says of its cells: which begins, and how one has ended."""
    try:
        with open_regular(current.log, "rb") as file:
            file.seek(current.read)
            text = file.read()
    except OSError:
        return
    whole = text[: text.rfind(b"\n") + 1]
    current.read += len(whole)
    cells = {cell.id: cell for cell in current.cells}
    for line in whole.decode("utf-8", "replace").splitlines():
        found = read_mark(line)
        if found is None or found[0] not in cells:
            continue
        current.cell, what = cells[found[0]], found[1]
        if what in _ENDINGS:
            _book(current, _ENDINGS[what], summary, on_event)
        elif found != current.told:
            current.told = found
            on_event(State.STARTED, current.cell, {"stage": what})


def _look(current: _Running, on_event: OnEvent) -> None:
    """Pass progress on, and end a job of which a rank has failed."""
    beat = read_progress(current.cell.folder)
    if beat is not None and beat.time > current.progress:
        current.progress = beat.time
        on_event(State.RUNNING if beat.stage == "train" else State.EVALUATING, current.cell, {"beat": beat})
    now = time.monotonic()
    # One rank alone goes on with its next cell.
    if current.ranks > 1 and _failure(current) is not None:
        current.failed_at = current.failed_at or now
    alive = ranks_of(current.job_id)
    current.complete = current.complete or (alive is not None and len(alive) == current.ranks)
    if current.complete and alive is not None and len(alive) < current.ranks:
        # Killed, perhaps for its memory: it left no word.
        current.lost_at = current.lost_at or now
    if (current.failed_at is not None and now - current.failed_at > _SECONDS_FOR_OTHER_RANKS) or (
        current.lost_at is not None and now - current.lost_at > _SECONDS_BETWEEN_ENDS
    ):
        _end([current])


def ranks_of(job_id: str) -> list[int] | None:
    """Processes of a local job's ranks that are alive: the children of its controller, whose process is the job's id.

    None: it is gone, or the system does not tell.
    """
    try:
        return [int(rank) for rank in Path(f"/proc/{job_id}/task/{job_id}/children").read_text().split()]
    except OSError:
        return None


def _ask_to_stop(running: Iterable[_Running], on_stop: Callable[[], None]) -> None:
    """Ask the ranks of jobs to stop at the step under way; called again and again, since one that starts is deaf."""
    jobs = list(running)
    if not any(current.asked for current in jobs):
        with contextlib.suppress(*_NOBODY_READS):
            on_stop()
    for current in jobs:
        current.asked = True
        current.controller.send_signal(signal.SIGTERM)  # which it passes on to the ranks


def _end_at_once(current: _Running) -> list[int]:
    """Kill the ranks of a job that lives, and its controller; returns the ranks, which take a moment to go."""
    current.controller.send_signal(signal.SIGSTOP)  # so that it starts no other
    ranks = ranks_of(current.job_id) or []
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.kill(rank, signal.SIGKILL)
    current.controller.kill()
    return ranks


def _end(running: Collection[_Running]) -> None:
    """End jobs at once and wait for it, so that the cells are free when this returns."""
    ranks = [rank for current in running if not current.ended() for rank in _end_at_once(current)]
    deadline = time.monotonic() + _SECONDS_TO_END
    while time.monotonic() < deadline and not (
        all(current.ended() for current in running) and not any(map(lives, ranks))
    ):
        time.sleep(0.05)


def _how_it_ended(current: _Running) -> State:
    """Of the cell at which a job was when it ended without a word of it."""
    cell = current.cell
    if cell.evaluated():
        return State.FINISHED
    if _failure(current) is None and (current.asked or (stopped_at(cell.folder) or 0.0) >= current.started):
        return State.STOPPED
    return State.FAILED


def _book(current: _Running, state: State, summary: Summary, on_event: OnEvent) -> None:
    cell, details = current.cell, dict[str, Any]()
    summary[cell.id] = state
    if state is State.FAILED:
        failure = _failure(current)
        details = {"error": failure.error if failure else _WORDS[without_a_word(cell)], "log": str(current.log)}
    elif state is State.STOPPED:
        _note_stop(current)
    on_event(state, cell, details)


def _note_stop(current: _Running) -> None:
    """Write down that a cell was stopped, where it could not do so itself."""
    if (stopped_at(current.cell.folder) or 0.0) < current.started:
        append_event(current.cell.folder.events_file, STOPS[_stage(current.cell)])


def _failure(current: _Running) -> Failed | None:
    """What this attempt says of its failure; an earlier one's word stays until the new ranks have met."""
    failure = read_failure(current.cell.folder)
    return failure if failure and (failure.time or 0.0) >= current.started else None
