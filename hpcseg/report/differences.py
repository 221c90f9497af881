"""Pairs of trainings: how far apart they are, and what of it another training or other slices could turn.

The intervals and the correction for many comparisons are those of `statistics`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from hpcseg.report.collect import Group, Records
from hpcseg.report.comparison import group_label, headline_levels, training_label
from hpcseg.report.observations import VALIDATION, Observations, observations
from hpcseg.report.sheet import Block, Sheet, as_gain, csv_text, fixed
from hpcseg.report.statistics import FEWEST, Estimate, difference, median, shown_of, slope

GAINS = (
    "in percentage points of pixel accuracy (+ is fewer errors), paired by seed and slice, ± half of a 95 % interval "
    "that holds another training and another stretch of slices. Bold: shown, also after Holm's correction for all "
    "{number} comparisons. Not shown: zero is inside the interval, which reaches as far as the number in brackets. "
    "Fewer than three repetitions have no interval, since they say nothing of another training."
)
"""The caption of a table of differences; `number` is that of its comparisons."""
OF_DIFFERENCE = "difference,low,high,p_value,shown,repetitions"
"""The columns of `numbers` in a CSV."""
_CSV_HEAD = f"table,group,against,noise,{OF_DIFFERENCE},repetitions_for_a_tenth_of_a_per_cent"
_SIZES = (0.001, 0.005)

Compared = tuple[Group, Group, list[Estimate | None]]
"""A group, what it is compared with, and its gain at every level."""


def differences(records: Records) -> Sheet:
    """Every group against the first of its tiles and split, against the next lower noise fraction, and the trends."""
    table = observations(records)
    levels = {head: key for head, key in headline_levels(records).items() if key != VALIDATION}
    compared: dict[str, list[Compared]] = {}
    for (tiles, split), pairs in _pairs(records).items():
        for group, other in pairs:
            found = [difference(table.of(group, key), table.of(other, key)) for key in levels.values()]
            if any(found):
                compared.setdefault(f"{tiles}, {split} split", []).append((group, other, found))
    flat = [one for lines in compared.values() for *_, found in lines for one in found]
    shown = iter(shown_of(flat))
    blocks, observed = [], list[list[str]]()
    for heading, lines in compared.items():
        texts, sources = [], []
        for group, other, found in lines:
            marks = list(itertools.islice(shown, len(found)))
            named = f"{training_label(group, records)} against {training_label(other, records)}"
            texts.append((named, *map(as_gain, found, marks)))
            sources.append((other.rows[0].id, *(group.rows[0].id,) * len(levels)))
            labels = group_label(group, records), group_label(other, records)
            observed += _observed(labels, levels, found, marks)
        blocks.append(Block(heading, ("training", *levels), tuple(texts), tuple(sources)))
    trends, lines_of_trends = _trends(records, table, levels)
    caption = (
        "Gains of one training over another, "
        + GAINS.format(number=sum(one is not None for one in flat))
        + _needed(flat)
    )
    csv = csv_text(_CSV_HEAD, [*observed, *lines_of_trends])
    return Sheet("differences", "Differences between trainings", caption, (*blocks, *trends), csv)


def numbers(found: Estimate | None, shown: bool) -> list[str]:
    """A difference as the columns `OF_DIFFERENCE`; empty for none, and low, high and p without an interval."""
    if found is None:
        return [""] * 6
    if found.half is None:
        return [fixed(found.mean), "", "", "", "", str(len(found.values))]
    ends = found.mean - found.half, found.mean + found.half
    return [*map(fixed, (found.mean, *ends, found.p_value)), "yes" if shown else "no", str(len(found.values))]


def _observed(
    labels: tuple[str, str], levels: dict[str, str], found: Sequence[Estimate | None], marks: Sequence[bool]
) -> Iterator[list[str]]:
    for key, one, mark in zip(levels.values(), found, marks, strict=True):
        if one is not None:
            needed = one.repetitions_for(_SIZES[0])
            yield ["differences", *labels, key, *numbers(one, mark), "" if needed is None else str(needed)]


def _trends(records: Records, table: Observations, levels: dict[str, str]) -> tuple[list[Block], list[list[str]]]:
    """The slope of accuracy over the noise fraction, over all tiles, splits and seeds together."""
    settings: dict[tuple[str, str], dict[float, Group]] = {}
    for (tiles, split, fraction), group in sorted(records.positions.items()):
        settings.setdefault((tiles, split), {})[fraction] = group
    rows: dict[str, list[Estimate | None]] = {}
    for name, lowest in (("100 % more noise", 0.0), ("the same, from the lowest fraction with noise", 1e-9)):
        above = {
            setting: {fraction: group for fraction, group in groups.items() if fraction >= lowest}
            for setting, groups in settings.items()
        }
        above = {setting: groups for setting, groups in above.items() if len(groups) >= FEWEST}
        rows[name] = [
            slope({at: {x: table.of(group, key) for x, group in groups.items()} for at, groups in above.items()})
            for key in levels.values()
        ]
    rows = {name: found for name, found in rows.items() if any(found)}
    lines, observed = [], list[list[str]]()
    for name, found in rows.items():
        shown = [one is not None and one.excludes_zero for one in found]
        lines.append((name, *map(as_gain, found, shown)))
        observed += _observed((name, "slope over all tiles, splits and seeds"), levels, found, shown)
    heading = "Trend: the mean of one slope per tiles, split and seed (one test a column, so without correction)"
    return [Block(heading, ("noise in training", *levels), tuple(lines))] if lines else [], observed


def _needed(found: Sequence[Estimate | None]) -> str:
    """How many repetitions differences of some sizes would take, at the median of what is known."""
    known = [one for one in found if one is not None and one.half is not None]
    if not known:
        return ""
    texts = []
    for size in _SIZES:
        needed = median(one.repetitions_for(size) or float("inf") for one in known)
        takes = f"{needed:.0f} repetitions" if needed < float("inf") else "more test slices than these"
        texts.append(f"{100 * size:.1f} points {takes}")
    return (
        f" To show a difference in four of five cases takes, at the median of this table, for {', for '.join(texts)}."
    )


def _pairs(records: Records) -> dict[tuple[str, str], list[tuple[Group, Group]]]:
    blocks: dict[tuple[str, str], list[Group]] = {}
    for group in records.groups:
        blocks.setdefault((group.config.data.tiles, group.config.data.split), []).append(group)
    for groups in blocks.values():
        # Job files may list them in any order: first by noise, then those of the tables, then what differs from them.
        usual = set(map(id, records.positions.values()))
        groups.sort(key=lambda group: (group.config.train.noise_fraction, id(group) not in usual))
    return {block: list(_against(groups)) for block, groups in blocks.items() if len(groups) > 1}


def _against(groups: list[Group]) -> Iterator[tuple[Group, Group]]:
    for group in groups[1:]:
        yield group, groups[0]
    # The first of a fraction stands for it; the others differ in something else.
    firsts: dict[float, Group] = {}
    for group in groups:
        first = firsts.setdefault(group.config.train.noise_fraction, group)
        if group is not first is not groups[0]:
            yield group, first
    for before, group in itertools.pairwise(list(firsts.values())[1:]):
        yield group, before
