"""The table of readings: settings that the paper does not state, one row each, beside its small row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hpcseg.records.collect import Records
from hpcseg.records.groups import FREE, Group, flat
from hpcseg.report import paper
from hpcseg.report.curves import Drawn
from hpcseg.report.fields import fields
from hpcseg.report.measures import at
from hpcseg.report.table import Block, Line, Number, Table, Text, Unit
from hpcseg.statistics import FEWEST, Estimate, estimate
from hpcseg.text import shown

_PAPER = tuple(one.accuracy for one in (paper.TABLE_1[1], *paper.TABLE_2[:5]))
_COLUMNS = ("clean, 0 %", *(f"{100 * fraction:g} %" for fraction in paper.NOISE_FRACTIONS), "distance")


@dataclass(frozen=True)
class Reading:
    """What one reading of the paper gives."""

    settings: str
    """In which it differs from the job's first cells."""
    level: str
    """Key of the test's noise level."""
    found: tuple[Estimate | None, ...]
    """Clean without noise in training, then noisy at each of the paper's noise fractions."""

    @property
    def distance(self) -> float | None:
        """Root mean square distance to the paper's six numbers; None where one is missing or has too few seeds."""
        ours = [one.mean for one in self.found if one is not None and len(one.values) >= FEWEST]
        return float(np.sqrt(np.mean(np.subtract(ours, _PAPER) ** 2))) if len(ours) == len(self.found) else None

    @property
    def holds_all(self) -> bool:
        """Each of the paper's six numbers lies inside of the interval that stands for it here."""
        return all(
            one and one.half is not None and not one.two_populations and abs(one.mean - there) <= one.half
            for one, there in zip(self.found, _PAPER, strict=True)
        )


def all_readings(records: Records) -> Iterator[Reading]:
    """Every reading of the job's cells, in the job's order; of its noise levels those like the paper's come first."""
    rows: dict[str, dict[float, Group]] = {}
    for group in records.groups:
        ours, first = flat(group.config), flat(records.groups[0].config)
        apart = (name for name in ours if name not in {*FREE, "train.noise_fraction"} and ours[name] != first[name])
        settings = ", ".join(f"{name} = {shown(ours[name])}" for name in apart)
        rows.setdefault(settings or "as here", {})[group.noise] = group
    for settings, groups in rows.items():
        evaluate = next(iter(groups.values())).config.evaluate
        far = {
            one: (bool(one.norm_tiles), one.model != "gaussian", one.sigma != evaluate.table_sigma)
            for one in evaluate.headline_levels()
        }
        clean = {level.norm_tiles: level.key for level in far if not level.sigma}
        for level in sorted((level for level in far if level.sigma), key=far.__getitem__):
            # The clean test beside it is with the statistics of batches too, where its own are.
            places = [(0.0, clean[level.norm_tiles]), *((one, level.key) for one in paper.NOISE_FRACTIONS)]
            of = ((groups.get(noise), key) for noise, key in places)
            found = (estimate(at(records, key)(group)) if group else None for group, key in of)
            yield Reading(settings, level.key, tuple(found))


def readings(records: Records) -> Table:
    """One block per noise level of the test, one row per reading beside the paper's small row."""
    blocks: dict[str, list[Line]] = {}
    published = (*(Number(Estimate((one,)), Unit.RATIO) for one in _PAPER), Number(None, Unit.RATIO))
    found = list(all_readings(records))
    nearest = min((one.distance for one in found if one.distance is not None), default=None)
    for one in found:
        apart = None if one.distance is None else Estimate((one.distance,))
        marked = apart is not None and one.distance == nearest
        cells = (*(Number(each, Unit.RATIO) for each in one.found), Number(apart, Unit.RATIO, marked=marked))
        blocks.setdefault(one.level, [Line(Text("paper"), published)]).append(Line(Text(one.settings), cells))
    return Table("readings", tuple(Block(level, _COLUMNS, tuple(lines)) for level, lines in blocks.items()))


def readings_drawn(records: Records) -> Drawn:
    """How far each reading is from the paper's row: a row per reading of the training, a column per test."""
    found = list(all_readings(records))
    if not any(one.distance is not None for one in found):
        text = f"no reading has {FEWEST} or more repetitions at each share of noise in training."
        return Drawn(None, (records.lacks("readings", text),))
    rows, columns = (
        list(dict.fromkeys(names)) for names in ([one.settings for one in found], [one.level for one in found])
    )
    apart = np.full((len(rows), len(columns)), np.nan)
    for one in found:
        apart[rows.index(one.settings), columns.index(one.level)] = np.nan if one.distance is None else one.distance
    figure = Figure(figsize=(3.2 + 0.45 * len(columns), 1.8 + 0.25 * len(rows)), layout="constrained")
    panel = figure.subplots()
    fields(panel, apart, "{:.3f}".format, rows, columns, colours="cividis_r")
    panel.tick_params(axis="x", rotation=90)
    for one in found:
        if one.holds_all:
            corner = columns.index(one.level), rows.index(one.settings)
            panel.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#D55E00", linewidth=1.6))
    return Drawn(figure)
