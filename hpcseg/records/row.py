"""One cell of a run: its settings, the records that are accepted of it, and what they say."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET

from hpcseg import metrics
from hpcseg.config import CellConfig, NoiseLevel
from hpcseg.data.grey import GreyScale
from hpcseg.files import read_regular
from hpcseg.records.accept import Evaluation, Training
from hpcseg.records.arrays import read_arrays
from hpcseg.runs.grid import Cell
from hpcseg.runs.record import MOST_BYTES_OF_LINES
from hpcseg.runs.schema import EpochLine
from hpcseg.sigma import Sigma

CLEAN = NoiseLevel(0.0)
_EXAMPLES = frozenset(
    (
        *("tiles", "tile_labels", "tile_keys", "tile_predictions"),
        *("slice", "slice_number", "slice_label", "slice_prediction"),
    )
)
_EXTREMES = frozenset(("images", "labels", "predictions", "errors", "numbers", "shares"))
EDGES = ("within 1", "within 2", "away", "errors within 1", "errors within 2")
"""Pixels from an edge of the labels: of which accuracy is known, and then a share of all errors."""


@dataclass(frozen=True)
class Hole:
    """Something that the report should have and has not."""

    subject: str
    """Id of the cell, or name of the table or figure."""
    reason: str
    """One sentence."""
    remedy: str
    """One sentence: what to do."""

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason} {self.remedy}"


@dataclass(frozen=True, eq=False)
class Row:
    """One cell. What its records do not have is None."""

    cell: Cell
    training: Training | None
    evaluation: Evaluation | None
    hole: Hole | None
    epochs: tuple[EpochLine, ...] = ()
    """Of its training, as far as it has come."""
    position: int = 0
    """Its data.split_seed, or, where another row with these settings has the same test slices, the first one's."""
    run: str = ""
    """The name of its run, where other runs of a comparison have other records of the same cell."""

    @property
    def id(self) -> str:
        """The cell's id, with its run where it takes that to know the row."""
        return self.named(self.cell.id)

    def named(self, name: str) -> str:
        """A name of the cell, with its run where it takes that to know the row."""
        return f"{name} of {self.run}" if self.run else name

    def same_records(self, other: Row) -> bool:
        """Whether both have the same records of their training and evaluation, as copies of one cell have."""
        mine, theirs = ([one and one.record for one in (row.training, row.evaluation)] for row in (self, other))
        return mine == theirs

    @property
    def config(self) -> CellConfig:
        """The cell's settings."""
        return self.cell.config

    @property
    def noisy(self) -> NoiseLevel:
        """The noise of Table 2's test."""
        return NoiseLevel(self.config.evaluate.table_sigma)

    def test_confusion(self, level: NoiseLevel) -> np.ndarray | None:
        """Of the test set with this noise."""
        return None if self.evaluation is None else self.evaluation.confusion.get(level)

    def confusion_at(self, key: str) -> np.ndarray | None:
        """Of the test set at the noise level of a key."""
        levels = self.evaluation.confusion if self.evaluation else {}
        return next((confusion for level, confusion in levels.items() if level.key == key), None)

    def whole_confusion(self) -> np.ndarray | None:
        """Of all whole test slices together, without noise."""
        return np.sum(found, axis=0) if (found := self._whole_slices()) else None

    def validation_accuracy(self) -> float | None:
        """Of the validation set after the epoch that was kept."""
        return None if self.training is None else metrics.accuracy(self.training.confusion)

    def test_accuracy(self, level: NoiseLevel) -> float | None:
        """Of the test set with this noise."""
        return None if (found := self.test_confusion(level)) is None else metrics.accuracy(found)

    def worst_slice(self) -> float | None:
        """Accuracy on the worst whole test slice."""
        return min(map(metrics.accuracy, self._whole_slices()), default=None)

    def edges(self, level: NoiseLevel) -> dict[str, float]:
        """`EDGES`: accuracy near to an edge of the labels and away from it, and the share of errors that is near."""
        near = self.evaluation.near_edge.get(level, {}) if self.evaluation else {}
        everything = self.test_confusion(level)
        if everything is None or not {1, 2} <= near.keys():
            return {}
        right = (metrics.accuracy(near[1]), metrics.accuracy(near[2]), metrics.accuracy_away(everything, near[2]))
        # Without errors none of them is near.
        wrong = (float(np.nan_to_num(metrics.share_of_errors_near(everything, near[one]))) for one in (1, 2))
        return dict(zip(EDGES, (*right, *wrong), strict=True))

    def interfaces(self, level: NoiseLevel) -> float | None:
        """Length of the interfaces between classes, over that of the labels."""
        of_labels = self.evaluation.label_interfaces if self.evaluation else None
        found = self.evaluation.interfaces.get(level) if self.evaluation else None
        return None if of_labels is None or found is None else metrics.relative_interface(found, of_labels)

    def sure(self, key: str, what: str) -> np.ndarray | None:
        """(SURE_BINS, 3) counts of how sure the model is at the noise level of a key, by a name of `SURE`."""
        levels = self.evaluation.sure if self.evaluation else {}
        return next((counts[what] for level, counts in levels.items() if level.key == key), None)

    def test_slices(self) -> tuple[int, ...]:
        """Numbers of the test slices, where no other set has a part of them; empty where they were not counted."""
        data, slices = self.config.data, self.evaluation.slices if self.evaluation else ()
        return tuple(one.slice for one in slices) if data.split == "blocked" or data.tiles == "cover" else ()

    def training_slices(self) -> int | None:
        """How many slices the training tiles come from."""
        if self.training is None:
            return None
        record, data = self.training.record, self.config.data
        if known := data.train_slices or record.train_slices:
            return known
        # A record of before that was counted has a grid of a fixed number of tiles, which stay together if blocked.
        rows, columns = data.tile_grid(0, 0)
        return round(record.train_tiles / (rows * columns))

    def labelled_slices(self) -> float | None:
        """How many slices have as many labels as the training: its slices, or so many parts of them."""
        slices = self.training_slices()
        return None if slices is None else slices * self.config.data.label_share

    def pixels_seen(self) -> float | None:
        """By the training, over all epochs."""
        if self.training is None:
            return None
        record, passes = self.training.record, self.config.train.passes(self.training.record.train_tiles)
        return float(passes * record.train_tiles * record.epochs * self.config.data.tile_size**2)

    def counts(self, sigma: Sigma) -> float:
        """A sigma in counts of the data of an evaluated cell."""
        grey = self.evaluation.grey if self.evaluation else None
        return (grey or GreyScale(0.0, 1.0)).counts(sigma)

    def pictures(self, *, extremes: bool = False) -> dict[str, np.ndarray] | None:
        """What the evaluation kept for figures: examples, or its best and worst slice; None where it cannot be read."""
        folder = self.cell.folder
        try:
            file = folder.extremes_file if extremes else folder.examples_file
            content = read_regular(file, MOST_BYTES_OF_LINES)
            stated = self.evaluation.record.pictures_sha256.get(file.name) if self.evaluation else None
            if stated is not None and hashlib.sha256(content).hexdigest() != stated:
                return None
            return read_arrays(content, _EXTREMES if extremes else _EXAMPLES)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            return None

    def record_files(self) -> list[str]:
        """Names of those that are there."""
        return [path.name for path in self.cell.folder.record_files() if path.exists()]

    def _whole_slices(self) -> list[np.ndarray]:
        slices = self.evaluation.slices if self.evaluation else ()
        return [np.array(one.whole) for one in slices if one.whole is not UNSET]


LEVELS: dict[str, Callable[[Row], NoiseLevel]] = {"clean": lambda _: CLEAN, "noisy": lambda row: row.noisy}
"""The test sets of Tables 1 and 2, by what a table calls them."""
