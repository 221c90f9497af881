"""All cells of a job on this machine's device, many in one process: what a grid without a process per stage would take.

    python3 results/bench/gpu/warm_grid.py JOB DATASET RUN [--processes 2] [--first 10] [--set KEY=VALUE]

Prints a line per stage and one for the whole. Records are those of `hpcseg grid`, so `hpcseg report --run RUN` works.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path
from typing import Any

from hpcseg.cli.runs import plan_run
from hpcseg.runs.execute import run_cell
from hpcseg.runs.grid import write_plan
from hpcseg.runs.record import CellFolder


def serve(process: int, turn: Any, folders: list[str], began: float) -> None:
    """Take one cell after the other until none is left.

    Args:
        process: its number.
        turn: shared between the processes; the place of the next cell in `folders`.
        folders: of the cells.
        began: when the first process was started, in seconds since the epoch.
    """
    print(f"process {process} is there after {time.time() - began:.1f} s", flush=True)
    while True:
        with turn.get_lock():
            place = turn.value
            turn.value += 1
        if place >= len(folders):
            return
        folder = CellFolder(Path(folders[place]))
        for stage in ("train", "evaluate"):
            started = time.time()
            try:
                outcome: str = run_cell(folder, stage, should_stop=lambda: False)
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            seconds = f"{started - began:.1f}\t{time.time() - started:.1f}"
            print(f"process {process}\t{folder.path.name}\t{stage}\t{outcome}\t{seconds}", flush=True)


def main() -> None:
    """Plan the job and share its cells out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job")
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--first", type=int, help="only so many of the job's cells")
    parser.add_argument("--set", action="append", default=[], help="as hpcseg grid's")
    asked = parser.parse_args()
    began = time.time()
    planned = plan_run(asked.job, asked.data, asked.run, asked.set)
    write_plan(planned)
    # The large ones first, or the last one would be alone.
    cells = sorted(planned.cells[: asked.first], key=lambda cell: cell.config.data.tiles != "large")
    # Not forked: a process that has CUDA cannot be.
    context = multiprocessing.get_context("spawn")
    turn = context.Value("i", 0)
    folders = [str(cell.folder.path.resolve()) for cell in cells]
    processes = [
        context.Process(target=serve, args=(number, turn, folders, began)) for number in range(asked.processes)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    done = sum(cell.evaluated() for cell in cells)
    print(f"{done} of {len(cells)} cells in {time.time() - began:.1f} s, processes: {asked.processes}")
    raise SystemExit(done < len(cells))


if __name__ == "__main__":
    main()
