"""Tables of any job, whatever it varies: accuracy and IoU by its settings, runs side by side, labels, what it took."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from hpcseg import metrics
from hpcseg.records.collect import Records
from hpcseg.records.groups import Group, alike_but, axes_label, counterparts, flat
from hpcseg.records.groups import axes as axes_of
from hpcseg.records.observations import VALIDATION, WHOLE, headline_levels
from hpcseg.records.row import Row
from hpcseg.report.measures import Column, Measure, at, gain, gain_of_slices, made, of_confusion, repeated, same_pixels
from hpcseg.report.table import Block, Line, Number, Table, Text, Unit, marked_gains
from hpcseg.runs.schema import Trained
from hpcseg.statistics import difference, estimate
from hpcseg.text import shown

RIGHT = ": right"
"""How the columns of `compared` end that are of right pixels."""


def axes(records: Records) -> Table:
    """Accuracy and mean IoU of every setting, and of each axis what its values gain over the first."""
    names, tested = axes_of(records.groups), _tested(records)
    columns = {}
    for head, key in tested.items():
        columns[f"{head}: right, %"] = Column(at(records, key), Unit.RIGHT)
        columns[f"{head}: mean IoU"] = Column(iou(key), Unit.RATIO)
    columns["worst slice: right, %"] = Column(repeated(Row.worst_slice), Unit.RIGHT)
    columns["validation: right, %"] = Column(at(records, VALIDATION), Unit.RIGHT)
    lines: dict[str, list[Line]] = {}
    # Of a comparison `compared` has them.
    for name in () if records.groups[0].of else names:
        series = alike_but(records.groups, name)
        first, *others = dict.fromkeys(value for of in series for value in of)
        for value in others:
            cells = tuple(Number(gain(records, series, value, first, key), Unit.GAIN) for key in tested.values())
            if any(cell.found for cell in cells):
                label = Text(f"{shown(value)} against {shown(first)}")
                lines.setdefault(f"Gained by {name}, all else equal", []).append(Line(label, cells))
    blocks, found = marked_gains(lines, tuple(tested))
    return Table("axes", (*_by_setting(records, names, columns), *blocks), {"number": len(found)})


def compared(records: Records) -> Table:
    """What differs between runs, and what each setting of a run gains over its like in the first run."""
    names, tested = axes_of(records.groups), _tested(records)
    runs: dict[str, list[Group]] = {}
    for group in records.groups:
        runs.setdefault(group.of or axes_label(group, names), []).append(group)
    differ = []
    for name in names:
        values = [", ".join(dict.fromkeys(shown(flat(group.config)[name]) for group in of)) for of in runs.values()]
        differ += [Line(Text(name), tuple(map(Text, values)))] if len(set(values)) > 1 else []
    lines = []
    for group, other in counterparts(records.groups):
        ours, theirs = flat(group.config), flat(other.config)
        others = axes_label(other, [name for name in names if ours[name] != theirs[name]])
        gains = [gain_of_slices(records, group, other, key) for key in tested.values()]
        same = [same_pixels(records, group, other, key) for key in tested.values()]
        of_iou = [iou(key) for key in tested.values()]
        gains += [difference(of(group), of(other)) if alike else None for of, alike in zip(of_iou, same, strict=True)]
        label = Text(f"{axes_label(group, names)} against {others}", group.id)
        lines += [Line(label, tuple(Number(one, Unit.GAIN) for one in gains))]
    heads = tuple(head + what for what in (RIGHT, ": mean IoU") for head in tested)
    blocks, found = marked_gains({"Gained over the first": lines}, heads)
    settings = (Block("Settings that differ", tuple(runs), tuple(differ)),) if differ else ()
    return Table("compared", (*settings, *blocks), {"number": len(found)})


def resources(records: Records) -> Table:
    """What the training and the evaluation of every setting took, and on what."""
    columns = {
        "seconds": Column(made("training", "seconds"), Unit.COUNT),
        "seconds of the test": Column(made("evaluation", "seconds"), Unit.COUNT),
        "MiB": Column(made("training", "peak_memory_mib", "host"), Unit.COUNT),
        "MiB of the GPU": Column(made("training", "peak_memory_mib", "gpu"), Unit.COUNT),
        "steps": Column(made("training", "steps"), Unit.COUNT),
        "training tiles": Column(made("training", "train_tiles"), Unit.COUNT),
        "parameters": Column(made("training", "parameters"), Unit.COUNT),
    }
    return Table("resources", _by_setting(records, axes_of(records.groups), columns, devices=True))


def labels(records: Records) -> Table:
    """How much of the training data of every setting is labelled."""

    def per(whole: Callable[[Row, Trained], int | None]) -> Measure:
        def ratio(row: Row) -> float | None:
            made = row.training.record if row.training else None
            if made is None or made.train_labelled_pixels is None or not (of := whole(row, made)):
                return None
            return made.train_labelled_pixels / of

        return repeated(ratio)

    columns = {
        "slices": Column(made("training", "train_slices"), Unit.COUNT),
        "labelled pixels": Column(made("training", "train_labelled_pixels"), Unit.COUNT),
        "labelled pixels per slice": Column(per(lambda _, made: made.train_slices), Unit.COUNT),
        "share of the tiles' pixels": Column(
            per(lambda row, made: made.train_tiles * row.config.data.tile_size**2), Unit.MEAN
        ),
    }
    return Table("labels", _by_setting(records, axes_of(records.groups), columns))


def iou(key: str) -> Measure:
    """Mean IoU at a level of the tidy table."""
    return of_confusion(Row.whole_confusion if key == WHOLE else lambda row: row.confusion_at(key), metrics.mean_iou)


def _tested(records: Records) -> dict[str, str]:
    """Of the test sets that any cell was evaluated on the level, by what a column calls it."""
    levels = {WHOLE: WHOLE, **headline_levels(records)}
    del levels[VALIDATION]
    return {head: key for head, key in levels.items() if any(at(records, key)(group) for group in records.groups)}


def _by_setting(
    records: Records, names: Iterable[str], columns: Mapping[str, Column], *, devices: bool = False
) -> tuple[Block, ...]:
    """One line per setting of the job, one column per measure that any cell has."""
    measured = {head: {group: column.measure(group) for group in records.groups} for head, column in columns.items()}
    heads = [head for head in columns if any(measured[head].values())]
    names, lines = tuple(names), []
    for group in records.groups:
        cells: list[Number | Text] = [Number(estimate(measured[head][group]), columns[head].unit) for head in heads]
        cells += [Text(_devices(group))] if devices else []
        lines.append(Line(Text(axes_label(group, names), group.id), tuple(cells)))
    return (Block("", (*heads, *(("device",) if devices else ())), tuple(lines)),) if heads else ()


def _devices(group: Group) -> str:
    trained = (row.training.record.provenance.device for row in group.rows if row.training)
    return ", ".join(dict.fromkeys(device for device in trained if device)) or "-"
