"""How the local queue looks while it runs: a table of what runs on a terminal, one line per event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpcseg.cli import console
from hpcseg.runs.epochs import Epochs, loss_and_validation
from hpcseg.runs.names import short_names
from hpcseg.runs.schema import Beat
from hpcseg.runs.state import State

if TYPE_CHECKING:
    from hpcseg.runs.grid import Cell

# Of 80 columns: what the numbers leave, and a bar in which something can be seen.
_WIDEST_NAME = 24
_REFRESHES_PER_SECOND = 4
# Of one cell: what begins with loading libraries says little before.
_LEAST_TO_TELL = 0.2


@dataclass
class _Running:
    """A cell of the queue as it is shown."""

    name: str
    epochs: Epochs
    began: float = field(default_factory=time.monotonic)
    beat: Beat | None = None
    """The last heartbeat of the stage."""
    said: str = ""
    """Of its notes the last one that was shown."""

    def share(self) -> float:
        """How much of the cell is done, 0 to 1, by its training, which takes most of the time."""
        if self.beat is None:
            return 0.0
        return self.beat.steps_done / self.beat.steps if self.beat.stage == "train" else 1.0


class QueueView:
    """Shows the events of `cluster.local.run_locally`; a context manager around it.

    Args:
        cells: of the whole grid.
        queue: those of them that are to run.
    """

    def __init__(self, cells: Sequence[Cell], queue: Sequence[Cell]) -> None:
        self._names = short_names(cells)
        # Those that nobody has asked for are none of this queue's.
        self._done = sum(cell.evaluated() for cell in cells)
        self._all = self._done + len(queue)
        self._queued, self._ended = len(queue), 0
        self._began = time.monotonic()
        # Epochs of an earlier start are no news, and a small cell has some before it is known to have begun.
        self._epochs = {cell.id: Epochs(cell, skip=True) for cell in queue}
        self._running: dict[str, _Running] = {}
        self._on_terminal = console.stderr.is_terminal
        self._live = Live(
            console=console.stderr,
            get_renderable=self._table,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
        )

    def __enter__(self) -> QueueView:
        if self._on_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, state: State, cell: Cell, details: dict[str, Any]) -> None:
        """One event of the queue."""
        if cell.id not in self._running:
            self._running[cell.id] = _Running(self._names[cell.id], self._epochs[cell.id])
        shown = self._running[cell.id]
        trains = state is State.STARTED and details["stage"] == "train"
        if trains:
            self._note(f"{shown.name}: training")
        for line in shown.epochs.news():
            self._note(f"{shown.name}: {line}")
        if state is State.STARTED:
            shown.beat = None
            if not trains:
                self._note(f"{shown.name}: evaluating")
        elif state in (State.RUNNING, State.EVALUATING):
            shown.beat = beat = details["beat"]
            if beat.note and beat.note != shown.said:
                shown.said = beat.note
                self._say(f"{shown.name}: {beat.note}")
        else:
            self._say(f"{shown.name}: {_ending(state, shown, details)}")
            self._ended += 1
            self._done += state is State.FINISHED
            del self._running[cell.id]

    def _note(self, text: str) -> None:
        """A line of what the table shows, for where there is none."""
        if not self._on_terminal:
            self._say(text)

    def _say(self, text: str) -> None:
        console.stderr.print(text)

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False, expand=True)
        table.add_column("Cell", max_width=_WIDEST_NAME, overflow="fold")
        table.add_column("", ratio=1)
        for heading in ("Epoch", "Loss", "Validation", "Left"):
            table.add_column(heading, justify="right", no_wrap=True)
        for shown in list(self._running.values()):
            table.add_row(*_row(shown))
        return Group(table, Text(f"{self._done} of {self._all} cells done{self._left()}", style="dim"))

    def _left(self) -> str:
        """Of the whole queue, as fast as it has been so far; nothing before that can be told."""
        done = self._ended + sum(shown.share() for shown in list(self._running.values()))
        if done < _LEAST_TO_TELL:
            return ""
        left = (self._queued - done) * (time.monotonic() - self._began) / done
        return f", about {console.duration(left)} left"


def _row(shown: _Running) -> tuple[str | Text | ProgressBar, ...]:
    """Name, how far it is, the last finished epoch with its numbers, time left."""
    history, epochs = shown.epochs.history, shown.epochs.cell.config.train.epochs
    numbers = (f"{len(history)}/{epochs}", *(loss_and_validation(history[-1]) if history else ("", "")))
    if (beat := shown.beat) is None:
        return Text(shown.name), ProgressBar(pulse=True), *numbers, "starting"
    left, trains = console.duration(beat.seconds_left), beat.stage == "train"
    bar = ProgressBar(
        total=beat.steps, completed=beat.steps_done, complete_style="bar.complete" if trains else "progress.remaining"
    )
    return Text(shown.name), bar, *numbers, left if trains else f"test {left}"


def _ending(state: State, shown: _Running, details: dict[str, Any]) -> str:
    if state is State.FAILED:
        return f"failed: {details['error']}\n  log: {details['log']}"
    if state is State.BUSY:
        return "another process is running it, passed over"
    if state is not State.FINISHED:
        return state
    text = f"finished in {console.duration(time.monotonic() - shown.began)}"
    if shown.epochs.history:
        loss, validation = loss_and_validation(shown.epochs.history[-1])
        text += f", loss {loss}, validation {validation}"
    return text
