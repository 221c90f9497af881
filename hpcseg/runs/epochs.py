"""The finished epochs of a cell as lines of text, each once. Loads numpy, so a verb imports it late."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hpcseg.errors import IncompleteError
from hpcseg.metrics import accuracy
from hpcseg.runs.grid import Cell
from hpcseg.runs.schema import EpochLine, Trained
from hpcseg.runs.told import finished_epochs


def validation_accuracy(made: EpochLine | Trained) -> float:
    """Share of right pixels of the validation set, after an epoch or of a training."""
    return accuracy(np.array(made.validation_confusion))


def loss_and_validation(epoch: EpochLine) -> tuple[str, str]:
    """Loss of the training and accuracy of the validation of a line of metrics.jsonl, in digits."""
    return f"{epoch.train_loss:.4f}", f"{validation_accuracy(epoch):.4f}"


class Epochs:
    """Reads a cell's metrics.jsonl again and again.

    Args:
        cell: of which.
        skip: what is there already is no news.
    """

    def __init__(self, cell: Cell, *, skip: bool = False) -> None:
        self.cell = cell
        self.history: list[EpochLine] = []
        """As it was last read."""
        if skip:
            list(self.news())

    def news(self) -> Iterator[str]:
        """The epochs that have finished since the last call."""
        try:
            history, of = finished_epochs(self.cell.folder), self.cell.config.train.epochs
            numbers = [loss_and_validation(epoch) for epoch in history[len(self.history) :]]
        except (IncompleteError, TypeError, ValueError, OverflowError):
            return  # `status` says so
        told, self.history = len(self.history), history
        for number, (loss, validation) in enumerate(numbers, start=told + 1):
            yield f"epoch {number}/{of}, loss {loss}, validation {validation}"
