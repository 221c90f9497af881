"""The finished epochs of a cell as lines of text, each once. Loads numpy, so a verb imports it late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hpcseg.metrics import accuracy
from hpcseg.runs.grid import Cell
from hpcseg.runs.record import read_lines


def loss_and_validation(epoch: dict[str, Any]) -> tuple[str, str]:
    """Loss of the training and accuracy of the validation of a line of metrics.jsonl, in digits."""
    return f"{epoch['train_loss']:.4f}", f"{accuracy(np.array(epoch['validation_confusion'])):.4f}"


class Epochs:
    """Reads a cell's metrics.jsonl again and again.

    Args:
        cell: of which.
        skip: what is there already is no news.
    """

    def __init__(self, cell: Cell, *, skip: bool = False) -> None:
        self.cell = cell
        self.history: list[dict[str, Any]] = []
        """As it was last read."""
        if skip:
            list(self.news())

    def news(self) -> Iterator[str]:
        """The epochs that have finished since the last call."""
        told, self.history = len(self.history), read_lines(self.cell.folder.metrics_file)
        for epoch in self.history[told:]:
            loss, validation = loss_and_validation(epoch)
            of = self.cell.config.train.epochs
            yield f"epoch {epoch['epoch']}/{of}, loss {loss}, validation {validation}"
