"""The paper's tables, its numbers beside ours and beside what needs no network."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

from hpcseg.config import SPLITS, NoiseLevel
from hpcseg.records.collect import Records
from hpcseg.records.groups import Group, alike_but
from hpcseg.records.observations import VALIDATION, observations
from hpcseg.report import paper
from hpcseg.report.baselines import SUBJECT, commonest, filtered
from hpcseg.report.measures import at
from hpcseg.report.table import Block, Line, Number, Table, Text, Unit
from hpcseg.sigma import in_words
from hpcseg.statistics import Estimate, estimate

_PAPER, _OURS = ", paper", ", ours"


def table1(records: Records) -> Table:
    """Table 1: no noise anywhere."""
    columns = tuple(f"{one.dataset} ({one.tiles})" for one in paper.TABLE_1)
    return _both_splits(records, "table1", columns, {"accuracy": paper.TABLE_1})


def table2(records: Records) -> Table:
    """Table 2: noise on a share of the training and validation tiles, and on all test tiles."""
    rows: dict[str, list[paper.Published]] = {}
    for one in paper.TABLE_2:
        rows.setdefault(f"{one.dataset} ({one.tiles})", []).append(one)
    return _both_splits(records, "table2", tuple(f"{100 * one:g} %" for one in paper.NOISE_FRACTIONS), rows)


def batch_norm(records: Records) -> Table:
    """The paper's comparison of the small baseline with and without batch normalisation."""
    groups = _variants(records, "small", "train.batch_norm", (True, False))
    lines = _beside(records, "validation (small)", paper.BATCH_NORM, groups, compared=True)
    return Table("batch_norm", (Block("shuffled split", ("with", "without"), tuple(lines)),))


def weight_decay(records: Records) -> Table:
    """Figure 8's number: the large model without noise in training, with weight decay, on the noisy test set."""
    groups = _variants(records, "large", "train.weight_decay", (0.0, paper.FIGURE_8_WEIGHT_DECAY))
    lines = _beside(records, "test (large)", paper.WEIGHT_DECAY, groups, compared=True)
    return Table("weight_decay", (Block("shuffled split", ("without", "weight decay 1e-2"), tuple(lines)),))


def beside_the_papers(table: Table) -> dict[str, dict[str, tuple[float, float]]]:
    """Ours and the paper's numbers of a table, by row and column, where there are both."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for block in table.blocks:
        for theirs, ours in itertools.pairwise(block.lines):
            if theirs.label.text.endswith(_PAPER) and ours.label.text.endswith(_OURS):
                row = f"{table.title.partition(':')[0]}, {ours.label.text.removesuffix(_OURS)}"
                for column, one, other in zip(block.columns, ours.cells, theirs.cells, strict=True):
                    if isinstance(one, Number) and isinstance(other, Number) and one.found and other.found:
                        found.setdefault(row, {})[column] = one.found.mean, other.found.mean
    return found


def _both_splits(
    records: Records, name: str, columns: tuple[str, ...], rows: Mapping[str, Sequence[paper.Published]]
) -> Table:
    """One block per split; rows of splits that the paper does not have stand where any cell of the job fills them."""
    blocks = []
    for split in SPLITS:
        lines = list[Line]()
        for label, places in rows.items():
            groups = [records.positions.get((one.tiles, split, one.noise_fraction)) for one in places]
            trained = [row.training for group in groups if group for row in group.rows]
            if split == "shuffled" or any(trained):
                lines += _beside(records, label, places, groups, compared=split == "shuffled")
        heading = "shuffled split, as the paper's" if split == "shuffled" else f"{split} split, not in the paper"
        blocks += [Block(heading, columns, tuple(lines))] if lines else []
    apart = {tiles: ", ".join(paper.deviations(group.config)) for (tiles, _, _), group in records.positions.items()}
    said = (f"Settings of {tiles} that are not the paper's: {found}. " for tiles, found in apart.items() if found)
    sigmas = sorted({in_words(group.config.evaluate.table_sigma) for group in records.positions.values()})
    return Table(name, tuple(blocks), {"settings": "".join(said), "sigma": ", ".join(sigmas)})


def _variants(records: Records, tiles: str, setting: str, values: Sequence[object]) -> list[Group | None]:
    """The shuffled baseline without noise with each of the values of a setting."""
    base = records.positions.get((tiles, "shuffled", 0.0))
    series = [of for of in alike_but(records.groups, setting) if base in of.values()]
    return [series[0].get(value) if series else None for value in values]


def _beside(
    records: Records, label: str, places: Sequence[paper.Published], groups: Sequence[Group | None], *, compared: bool
) -> Iterator[Line]:
    """The paper's row, ours, and on a test set what needs no network."""
    pairs = [(group, _level(one, group)) for one, group in zip(places, groups, strict=True)]
    ours = [_ours(records, group, level) for group, level in pairs]
    if compared:
        yield Line(Text(label + _PAPER), tuple(Number(Estimate((one.accuracy,)), Unit.MEAN) for one in places))
    yield Line(
        Text(label + _OURS),
        tuple(dataclasses.replace(one, unit=Unit.MEAN, missing=() if one.found else one.missing) for one in ours),
    )
    yield Line(Text("wrong, %"), tuple(ours))
    if all(level == VALIDATION for _, level in pairs):
        return
    tested = [(group, level) if group and level != VALIDATION else None for group, level in pairs]
    always = [Number(commonest(*one) if one else None, Unit.ERROR) for one in tested]
    of_filter = [filtered(records, *one) if one else None for one in tested]
    missing = [(SUBJECT,) if one.found and not of else () for one, of in zip(always, of_filter, strict=True)]
    numbers = (Number(of, Unit.ERROR, missing=holes) for of, holes in zip(of_filter, missing, strict=True))
    yield Line(Text("a filter: wrong, %"), tuple(numbers))
    yield Line(Text("one class: wrong, %"), tuple(always))


def _ours(records: Records, group: Group | None, level: str) -> Number:
    if group is None:
        return Number(None, Unit.ERROR)
    missing = tuple(row.id for row in group.rows if (row.id, level) not in observations(records).places)
    return Number(estimate(at(records, level)(group)), Unit.ERROR, group.id, missing=missing)


def _level(one: paper.Published, group: Group | None) -> str:
    """The level of a place of the paper's tables: its noise is what the job calls its table's."""
    if one.sigma is None:
        return VALIDATION
    return NoiseLevel(group.config.evaluate.table_sigma if group and one.sigma else one.sigma).key
