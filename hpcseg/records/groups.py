"""The cells of a run as groups of repetitions: what they differ in, what they are called, and which belong together."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hpcseg.config import CellConfig, digest
from hpcseg.errors import ConfigError
from hpcseg.records.row import Row
from hpcseg.text import shown

Position = tuple[str, str, float]
"""Tiles, split and noise fraction: where a group stands in the paper's tables."""

FREE = frozenset({"train.seed", "data.split_seed", "evaluate.sweep_max", "evaluate.sweep_step", "evaluate.examples"})
"""Settings in which the cells of a group may differ: seeds repeat, longer sweeps and pictures change no number."""
_PLACES = ("data.tiles", "data.split", "train.noise_fraction")
_THE_PAPERS = (
    *("train.batch_norm", "train.weight_decay", "train.noise_model", "train.noise_each_epoch", "train.augment"),
    *("train.schedule", "train.loss", "train.class_weights", "train.order_seed", "train.epoch_steps"),
    *("train.keep", "data.train_slices", "data.label_share", "data.slices", "data.normalise", "data.out_of_range"),
    "data.context",
)
"""Cells of the paper's tables have the default of these, which is the paper's, unless [report] cells says otherwise."""
# These may follow from the others, as the paper's batch sizes do from the tiles; then they only make names longer.
_OFTEN_IMPLIED = ("train.batch_size", "data.gap_slices")


@dataclass(frozen=True, eq=False)
class Group:
    """Repetitions: cells that differ in the settings of `FREE` alone."""

    rows: tuple[Row, ...]
    of: str = ""
    """What a comparison calls the run, or the variant of it, that they belong to; "" in the report of one run."""

    @property
    def id(self) -> str:
        """The id of the first cell, which stands for all."""
        return self.rows[0].id

    @property
    def config(self) -> CellConfig:
        """The settings of the first cell, which stand for all but the seeds."""
        return self.rows[0].config

    @property
    def tested(self) -> bool:
        """Whether any of its cells is."""
        return any(row.evaluation for row in self.rows)

    @property
    def noise(self) -> float:
        """Share of training tiles with noise."""
        return self.config.train.noise_fraction


def flat(config: CellConfig) -> dict[str, object]:
    """All settings of a cell by their names in a job file, as "train.width"."""
    return {
        f"{section}.{key}": value
        for section, settings in dataclasses.asdict(config).items()
        for key, value in settings.items()
    }


def grouped(rows: Iterable[Row], of: str = "") -> tuple[Group, ...]:
    """Rows over seeds, in the order of their first cells; `of` as in `Group`."""
    members: dict[str, list[Row]] = {}
    for row in rows:
        settings = {name: value for name, value in flat(row.config).items() if name not in FREE}
        members.setdefault(digest(settings), []).append(row)
    return tuple(Group(tuple(same), of) for same in members.values())


def placed(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows with their positions of the split: seeds that test the same slices are one, or chance would count twice."""
    first: dict[tuple[object, ...], int] = {}
    found = list[Row]()
    for row in rows:
        data = row.config.data
        tested = row.test_slices() or (row.training.record.split_sha256 if row.training else None) or data.split_seed
        position = first.setdefault((dataclasses.replace(data, split_seed=0), tested), data.split_seed)
        found.append(dataclasses.replace(row, position=position))
    return tuple(found)


def select(groups: Sequence[Group], cells: Iterable[str]) -> dict[Position, Group]:
    """The group of each place of the paper's tables: of several the first of the job file.

    Args:
        groups: to choose from.
        cells: what a job file has under report.cells: settings as "train.width=16" that these groups must have.

    Raises:
        ConfigError: one of `cells` is no setting.
    """
    usual = flat(CellConfig())
    wanted = {name: text(usual[name]) for name in _THE_PAPERS if name in usual}
    for setting in cells:
        name, equals, value = (part.strip() for part in setting.partition("="))
        if name not in usual or not equals:
            raise ConfigError(f'report.cells has "{setting}", but it must be SECTION.KEY=VALUE, as "train.width=16".')
        wanted[name] = value
    positions: dict[Position, Group] = {}
    for group in groups:
        settings, data = flat(group.config), group.config.data
        if any(text(settings[name]) != value for name, value in wanted.items()):
            continue
        positions.setdefault((data.tiles, data.split, group.noise), group)
    return positions


def group_label(group: Group, differing: Iterable[str]) -> str:
    """What sets a group apart: tiles, split and noise fraction, and other settings where the job varies them."""
    return f"{group.config.data.tiles}, {group.config.data.split}, {training_label(group, differing)}"


def training_label(group: Group, differing: Iterable[str]) -> str:
    """`group_label` without tiles and split, for a place that has them in its heading."""
    parts = [f"{shown(round(100 * group.noise, 10))} % noise"]
    settings, usual = flat(group.config), flat(CellConfig())
    for name in differing:
        if settings[name] != usual[name]:
            parts.append(_named(name, settings[name]))
    return ", ".join(parts)


def axes(groups: Sequence[Group]) -> tuple[str, ...]:
    """Settings that vary over the groups of a job, as far as it takes them to tell the groups apart."""
    settings = [flat(group.config) for group in groups]
    return (*(name for name in _PLACES if _differ(settings, name)), *differing(groups))


def axes_label(group: Group, names: Iterable[str]) -> str:
    """What sets a group apart in a job of any kind: the values of some settings, and in a comparison whose they are."""
    settings = flat(group.config)
    values = ", ".join(_named(name, settings[name]) for name in names)
    return ": ".join(part for part in (group.of, values) if part) or "all cells"


def counterparts(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Of a comparison each group of a later run with that of the first run which differs from it in the least settings.

    Where all are of one run, each with the first group. A group whose cells are those of the other is left out.
    """
    first = [group for group in groups if group.of == groups[0].of]
    first = first[:1] if len(first) == len(groups) else first

    def apart(group: Group, other: Group) -> int:
        ours, theirs = flat(group.config), flat(other.config)
        return sum(ours[name] != theirs[name] for name in ours if name not in FREE)

    pairs = ((group, min(first, key=lambda other: apart(group, other))) for group in groups if group not in first)
    return [(group, other) for group, other in pairs if group.rows != other.rows]


def differing(groups: Iterable[Group]) -> tuple[str, ...]:
    """Settings that are not the same in all groups of a job: all that it takes to tell them apart by name."""
    settings = [flat(group.config) for group in groups]
    free = [name for name in settings[0] if name not in FREE and name not in _PLACES]
    implied = [name for name in free if name.startswith("evaluate.") or name in _OFTEN_IMPLIED]
    named = [name for name in free if name not in implied and _differ(settings, name)]
    alike: dict[tuple[object, ...], list[Mapping[str, object]]] = {}
    for one in settings:
        alike.setdefault(tuple(one[name] for name in (*_PLACES, *named)), []).append(one)
    return (*named, *(name for name in implied if any(_differ(same, name) for same in alike.values())))


def both_splits(groups: Iterable[Group], differing: Iterable[str]) -> list[tuple[Group, Group]]:
    """Groups that differ in their split alone, shuffled and blocked: small before large as in the paper, by noise."""
    found: dict[tuple[str, str], dict[str, Group]] = {}
    for group in groups:
        key = group.config.data.tiles, training_label(group, set(differing) - {"data.gap_slices"})
        found.setdefault(key, {}).setdefault(group.config.data.split, group)
    both = [(of["shuffled"], of["blocked"]) for of in found.values() if {"shuffled", "blocked"} <= of.keys()]
    return sorted(both, key=lambda pair: (pair[0].config.data.tiles != "small", pair[0].noise))


def alike_but(groups: Iterable[Group], setting: str) -> list[dict[object, Group]]:
    """Groups that differ in one setting alone, by its value, as series."""
    found: dict[tuple[object, ...], dict[object, Group]] = {}
    for group in sorted(groups, key=lambda group: group.noise):
        settings = flat(group.config)
        key = tuple(value for name, value in settings.items() if name not in FREE | {setting})
        found.setdefault(key, {})[settings[setting]] = group
    return list(found.values())


def against(groups: Iterable[Group], differing: Iterable[str]) -> Iterator[tuple[Group, Group]]:
    """Each that is tested with the first of its tiles, split and noise fraction; these with the next lower ones."""
    places: dict[tuple[str, str], list[Group]] = {}
    # First by noise, then those that differ from the defaults in the least.
    tested = [group for group in groups if group.tested]
    for group in sorted(tested, key=lambda one: (one.noise, training_label(one, differing).count(","))):
        places.setdefault((group.config.data.tiles, group.config.data.split), []).append(group)
    for same in places.values():
        firsts: dict[float, Group] = {}
        for group in same:
            first = firsts.setdefault(group.noise, group)
            yield from ((group, other) for other in dict.fromkeys((same[0], first)) if other is not group)
        for before, group in itertools.pairwise(list(firsts.values())[1:]):
            yield group, before


def _named(name: str, value: object) -> str:
    """A setting and its value as a label has them."""
    key = name.removeprefix("data.").removeprefix("train.").replace("_", " ")
    return f"{'' if value else 'no '}{key}" if isinstance(value, bool) else f"{key} {shown(value)}"


def text(value: object) -> str:
    """A setting's value as a job file has it."""
    return str(value).lower() if isinstance(value, bool) else shown(value)


def _differ(settings: Sequence[Mapping[str, object]], name: str) -> bool:
    return len({one[name] for one in settings}) > 1
