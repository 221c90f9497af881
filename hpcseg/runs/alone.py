"""One cell of a plan in this process, or in this one rank of torchrun or srun: both its stages, told in lines of text.

What `hpcseg train` and `hpcseg.api.train` do.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hpcseg.errors import ConfigError, HpcsegError, IncompleteError
from hpcseg.launch.environment import read_environment
from hpcseg.runs.epochs import Epochs
from hpcseg.runs.execute import is_finished, run_cell
from hpcseg.runs.grid import Cell, Grid, read_cell, write_plan
from hpcseg.runs.inputs import Handed
from hpcseg.runs.state import Stage, State
from hpcseg.signals import Stop

_SECONDS_FOR_THE_PLAN = 600.0


def run_alone(grid: Grid, chosen: Cell, *, say: Callable[[str], None]) -> State:
    """Write the plan, then train and evaluate one of its cells from wherever its files say that it stands.

    Args:
        grid: whose plan is written, by rank 0.
        chosen: of it.
        say: told on rank 0 in a line each which stage begins, unless it is done, and of every epoch.

    Returns:
        FINISHED; STOPPED where Ctrl-C or a signal ended it, with a checkpoint; BUSY where another process has the cell.

    Raises:
        HpcsegError: anything that the user can mend.
    """
    rank = read_environment().rank
    if rank == 0:
        write_plan(grid)
    else:
        _wait_for_plan(chosen, rank)
    stages: tuple[Stage, ...] = ("train", "evaluate")
    epochs, handed, outcome = Epochs(chosen, skip=True), Handed(), State.FINISHED

    def on_epoch() -> None:
        for line in epochs.news():
            say(line)

    with Stop() as stop:
        for stage in stages:
            if rank == 0 and not is_finished(chosen, stage):
                say(f"{chosen.id}: {'training' if stage == 'train' else 'evaluating'}")
            outcome = run_cell(chosen.folder, stage, should_stop=stop, on_epoch=on_epoch, handed=handed)
            if outcome is not State.FINISHED:
                break
    return outcome


def _wait_for_plan(cell: Cell, rank: int) -> None:
    """Wait until rank 0 has written this cell's settings; what else the plan says is read after the ranks have met."""
    deadline = time.monotonic() + _SECONDS_FOR_THE_PLAN
    while time.monotonic() < deadline:
        try:
            # A finished cell's settings stay as they were.
            if read_cell(cell.folder).config == cell.config or cell.evaluated():
                return
        except (IncompleteError, ConfigError):
            # Not written yet, or an earlier version's.
            pass
        time.sleep(0.1)
    raise HpcsegError(
        f"Rank {rank} waited {_SECONDS_FOR_THE_PLAN / 60:.0f} minutes for rank 0 to write "
        f"{cell.folder.config_file}. Is the run folder on a file system that all nodes see?"
    )
