"""Which test tiles with which noise the finished cells of a run have met, and for which of them baselines are missing.

No torch, so that a report that has them all need not wait for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hpcseg.config import NOISE_MODELS, DataConfig, EvaluateConfig, NoiseLevel, digest
from hpcseg.data.evenly import evenly
from hpcseg.errors import IncompleteError
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Cell, data_file, planned, planned_cells, read_plan
from hpcseg.runs.record import read_baselines
from hpcseg.runs.schema import Baseline
from hpcseg.sigma import Share, amount
from hpcseg.tables import describes

_SWEPT = 48
"""Levels of a sweep that are looked at; of a finer one, evenly spaced ones."""


@dataclass(frozen=True)
class TestSet:
    """What the cells have in common that meet the same test tiles with the same noise."""

    data: DataConfig
    seed: int
    """Of the test noise."""
    levels: tuple[NoiseLevel, ...]
    """Those that tables are made of, and those of sweeps."""
    data_file: Path
    """The packed file of the plan."""
    data_sha256: str
    """Of its data."""

    @property
    def words(self) -> str:
        """What a note calls it."""
        return f"{self.data.tiles} {self.data.split}"

    @property
    def name(self) -> str:
        """Of its file: tiles, split, and eight digits of all that decides the tiles and their noise."""
        decides = {"data": dataclasses.asdict(self.data), "seed": self.seed, "data_sha256": self.data_sha256}
        return f"{self.data.tiles}-{self.data.split}-{digest(decides)[:8]}"

    def is_in(self, stored: Baseline) -> bool:
        """Whether a file has all that is wanted."""
        made_of = stored.data_sha256, stored.evaluate_seed
        if made_of != (self.data_sha256, self.seed) or not describes(stored.data, self.data):
            return False
        return {point.level for point in stored.points} >= set(self.levels)


def missing_baselines(run: RunFolder) -> dict[TestSet, Path]:
    """Test sets of finished cells that have no baselines, or not all that are wanted, and the files for them.

    Raises:
        IncompleteError: the run has no plan that can be read.
    """
    plan, stored = read_plan(run), read_baselines(run)
    wanted = _test_sets(planned_cells(run, plan), plan.data_sha256)
    # Not by their names, which are others wherever settings of the data came later.
    return {one: run.baseline_file(one.name) for one in wanted if not any(map(one.is_in, stored))}


def _test_sets(cells: Iterable[Cell], data_sha256: str) -> list[TestSet]:
    """Of the cells that are finished, in their order.

    Where tiles are normalised by their own grey values, thresholds of grey would be of something else in every tile.
    """
    members: dict[tuple[DataConfig, int], list[tuple[Cell, Path]]] = {}
    for cell in cells:
        # A record that cannot be read is a hole of the report, which says so itself.
        with contextlib.suppress(IncompleteError):
            if cell.evaluated() and cell.config.data.normalise == "full-scale":
                key, file = (cell.config.data, cell.config.evaluate.seed), data_file(cell.folder, planned(cell.folder))
                members.setdefault(key, []).append((cell, file))
    return [
        TestSet(*key, _levels(cell.config.evaluate for cell, _ in same), same[0][1], data_sha256)
        for key, same in members.items()
    ]


def _levels(settings: Iterable[EvaluateConfig]) -> tuple[NoiseLevel, ...]:
    """All levels that are looked at; a network's own statistics make no level of a filter."""
    settings = dict.fromkeys(settings)
    shown = {level for one in settings for level in one.headline_levels() if not level.norm_tiles}
    swept = sorted({level for one in settings for level in one.levels() if not level.norm_tiles} - shown, key=_place)
    some = [swept[index] for index in evenly(len(swept), _SWEPT).tolist()]
    return tuple(sorted({*shown, *some}, key=_place))


def _place(level: NoiseLevel) -> tuple[object, ...]:
    """Where a level stands: Gaussian ones by sigma, other models, mixed ones."""
    sigma = isinstance(level.sigma, Share), amount(level.sigma)
    return level.mixed, NOISE_MODELS.index(level.model), *sigma, level.fraction or 0.0
