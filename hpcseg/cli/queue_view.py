"""How the local queue looks while it runs: bars on a terminal, one line per event elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hpcseg.cli import console
from hpcseg.runs.state import State

if TYPE_CHECKING:
    from hpcseg.runs.grid import Cell


class QueueView:
    """Shows the events of `cluster.local.run_locally`; a context manager around it.

    Args:
        cells: of the whole grid.
        finished: cells that were finished before.
    """

    def __init__(self, cells: int, finished: int) -> None:
        self._cells = cells
        self._done = finished
        self._epochs: dict[str, int] = {}
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console.stderr,
            disable=not console.stderr.is_terminal,
        )
        self._all = self._progress.add_task("Cells", total=cells, completed=finished, note=f"{finished}/{cells}")

    def __enter__(self) -> QueueView:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, state: State, cell: Cell, details: dict[str, Any]) -> None:
        """One event of the queue."""
        if state in (State.RUNNING, State.EVALUATING):
            self._advance(cell.id, details)
            return
        if state is State.STARTED:
            self._say(f"{cell.id}: {'training' if details['stage'] == 'train' else 'evaluating'}")
            self._bars[cell.id] = self._progress.add_task(cell.id, total=None, note="starting")
            return
        if state is State.FAILED:
            self._say(f"{cell.id}: failed: {details['error']}\n  log: {details['log']}")
        elif state is State.BUSY:
            self._say(f"{cell.id}: another process is running it, passed over")
        elif state is State.STOPPED:
            self._say(f"{cell.id}: stopped")
        else:
            self._say(f"{cell.id}: finished")
        self._done += 1
        self._remove(cell.id)
        self._progress.update(self._all, completed=self._done, note=f"{self._done}/{self._cells}")

    def _advance(self, cell_id: str, details: dict[str, Any]) -> None:
        epoch, epochs, accuracy = details["epoch"], details["epochs"], details["validation_accuracy"]
        note = f"epoch {epoch}/{epochs}"
        if accuracy is not None:
            note += f", validation {accuracy:.4f}"
        steps = details["steps_per_epoch"]
        if cell_id not in self._bars:
            self._bars[cell_id] = self._progress.add_task(cell_id, total=None, note="")
        self._progress.update(
            self._bars[cell_id], total=epochs * steps, completed=(epoch - 1) * steps + details["step"], note=note
        )
        if self._epochs.get(cell_id) != epoch and details["stage"] == "train":
            self._epochs[cell_id] = epoch
            if not console.stderr.is_terminal:
                self._say(f"{cell_id}: {note}")

    def _remove(self, cell_id: str) -> None:
        if cell_id in self._bars:
            self._progress.remove_task(self._bars.pop(cell_id))

    def _say(self, text: str) -> None:
        self._progress.console.print(text)
