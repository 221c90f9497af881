"""All cells of a job on this machine's device, many in one process: what a grid without a process per stage would take.

    python3 results/bench/gpu/warm_grid.py JOB DATASET RUN [--processes 2] [--first 9] [--seconds 99] [--set KEY=VALUE]

Prints a line per stage and one for the whole. Records are those of `hpcseg grid`, so `hpcseg report --run RUN` works,
and finished cells are left alone. After --seconds, or at Ctrl-C, the cells that run write a checkpoint and stop.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

from hpcseg.runs.execute import run_cell
from hpcseg.runs.finding import plan_run
from hpcseg.runs.grid import write_plan
from hpcseg.runs.record import CellFolder

_ENDING = (signal.SIGINT, signal.SIGTERM)


def serve(process: int, turn: Any, stop: Any, folders: list[str], began: float) -> None:
    """Take one cell after the other until none is left, or until all are to stop.

    Args:
        process: its number.
        turn: shared between the processes; the place of the next cell in `folders`.
        stop: shared too; an event that is set when the cells are to stop.
        folders: of the cells.
        began: when the first process was started, in seconds since the epoch.
    """
    parent = os.getppid()

    def should_stop() -> bool:
        return bool(stop.is_set()) or os.getppid() != parent

    print(f"process {process} is there after {time.time() - began:.1f} s", flush=True)
    while not should_stop():
        with turn.get_lock():
            place = turn.value
            turn.value += 1
        if place >= len(folders):
            return
        folder = CellFolder(Path(folders[place]))
        for stage in ("train", "evaluate"):
            started = time.time()
            try:
                outcome: str = run_cell(folder, stage, should_stop=should_stop)
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            seconds = f"{started - began:.1f}\t{time.time() - started:.1f}"
            print(f"process {process}\t{folder.path.name}\t{stage}\t{outcome}\t{seconds}", flush=True)
            if outcome != "finished":
                break


def main() -> None:
    """Plan the job and share its cells out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job")
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--first", type=int, help="only so many of the job's cells")
    parser.add_argument("--seconds", type=float, help="after which all cells stop")
    parser.add_argument("--set", action="append", default=[], help="as hpcseg grid's")
    asked = parser.parse_args()
    began = time.time()
    planned = plan_run(asked.job, asked.data, asked.run, asked.set)
    write_plan(planned)
    # The large ones first, or the last one would be alone.
    cells = sorted(planned.cells[: asked.first], key=lambda cell: cell.config.data.tiles != "large")
    # Not forked: a process that has CUDA cannot be.
    context = multiprocessing.get_context("spawn")
    turn, stop = context.Value("i", 0), context.Event()
    folders = [str(cell.folder.path.resolve()) for cell in cells]
    processes = [
        context.Process(target=serve, args=(number, turn, stop, folders, began)) for number in range(asked.processes)
    ]
    for number in (*_ENDING, signal.SIGALRM):
        signal.signal(number, lambda *_: stop.set())
    # Ctrl-C reaches all processes. The others inherit that it is blocked, and hear of it from this one.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    for process in processes:
        process.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, asked.seconds - (time.time() - began)) if asked.seconds else 0)
    for process in processes:
        process.join()
    done = sum(cell.evaluated() for cell in cells)
    print(f"{done} of {len(cells)} cells in {time.time() - began:.1f} s, processes: {asked.processes}")
    raise SystemExit(done < len(cells))


if __name__ == "__main__":
    main()
