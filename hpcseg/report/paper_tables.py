"""Collected records in, the paper's tables out, its numbers beside ours. Reads no file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hpcseg.config import SPLITS, NoiseLevel, Sigma, in_words, shown
from hpcseg.report import paper
from hpcseg.report.collect import Group, Records, mean_and_spread
from hpcseg.report.sheet import Block, Sheet, csv_text, fixed

_HEAD = "table,split,tiles,noise_fraction,set,sigma,status,paper,ours,difference,spread,seeds,missing_cells"


@dataclass(frozen=True)
class Entry:
    """One place of a table: the paper's number and ours."""

    published: paper.Published
    split: str
    sigma: Sigma | None
    """Noise of our test set; None for validation."""
    values: tuple[float, ...]
    """One per finished cell, in the order of the job's seeds."""
    missing: tuple[str, ...]
    """Cells that the job has for this place and that are holes."""
    source: str = ""
    """The first of the cells that the job has for this place; "" for none."""

    @property
    def ours(self) -> float | None:
        """Mean over seeds."""
        return mean_and_spread(self.values)[0]

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        return mean_and_spread(self.values)[1]

    @property
    def reference(self) -> float | None:
        """The paper's number; only the shuffled split is its split."""
        return self.published.accuracy if self.split == "shuffled" else None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.ours is None or self.reference is None else self.ours - self.reference

    @property
    def status(self) -> str:
        """For the CSV: measured (perhaps of fewer seeds than planned), hole, or not in the job."""
        if self.values:
            return "measured"
        return "hole" if self.missing else "not in the job"


@dataclass(frozen=True)
class Table:
    """A table of the paper, filled: `blocks[split][row label][column label]`."""

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    blocks: Mapping[str, Mapping[str, tuple[Entry, ...]]]

    def entries(self) -> Iterable[Entry]:
        """All places, block by block and row by row."""
        return (entry for block in self.blocks.values() for row in block.values() for entry in row)


def table1(records: Records) -> Table:
    """Table 1: no noise anywhere."""
    columns = tuple(f"{entry.dataset} ({entry.tiles})" for entry in paper.TABLE_1)
    blocks = {
        split: {"accuracy": tuple(_entry(records, split, published) for published in paper.TABLE_1)} for split in SPLITS
    }
    return Table("table1", "Table 1: no noise anywhere", _caption(records, noisy=False), columns, _filled(blocks))


def table2(records: Records) -> Table:
    """Table 2: noise on a share of the training and validation tiles, and on all test tiles."""
    columns = tuple(f"{100 * fraction:g} %" for fraction in paper.NOISE_FRACTIONS)
    blocks: dict[str, dict[str, tuple[Entry, ...]]] = {split: {} for split in SPLITS}
    for split, block in blocks.items():
        for published in paper.TABLE_2:
            label = f"{published.dataset} ({published.tiles})"
            block[label] = (*block.get(label, ()), _entry(records, split, published))
    title = "Table 2: noise in training and validation (columns: share of tiles), noise on every test tile"
    return Table("table2", title, _caption(records, noisy=True), columns, _filled(blocks))


def batch_norm(records: Records) -> Table:
    """The paper's comparison of the small baseline with and without batch normalisation."""
    columns = ("with", "without")
    groups = [_baseline(records, "small", batch_norm=True), _baseline(records, "small", batch_norm=False)]
    entries = tuple(_filled_in(group, "shuffled", one) for group, one in zip(groups, paper.BATCH_NORM, strict=True))
    title = "Batch normalisation: small, no noise"
    block = {"shuffled": {"validation (small)": entries}}
    return Table("batch_norm", title, "Pixel accuracy; the paper says about 0.990 and about 0.980.", columns, block)


def weight_decay(records: Records) -> Table:
    """Figure 8's number: the large model without noise in training, with weight decay, on the noisy test set."""
    columns = ("without", "weight decay 1e-2")
    groups = [_baseline(records, "large"), _baseline(records, "large", weight_decay=paper.FIGURE_8_WEIGHT_DECAY)]
    entries = tuple(_filled_in(group, "shuffled", one) for group, one in zip(groups, paper.WEIGHT_DECAY, strict=True))
    title = "Weight decay: large, no noise in training, noise on every test tile"
    block = {"shuffled": {"test (large)": entries}}
    return Table("weight_decay", title, _caption(records, noisy=True), columns, block)


def paper_sheet(table: Table, records: Records) -> Sheet:
    """A table for a page; a hole points to its number in the list of holes."""
    numbers = {hole.subject: number for number, hole in enumerate(records.holes, start=1)}
    blocks = []
    for split, block in table.blocks.items():
        compared = split == "shuffled"
        lines: list[tuple[str, ...]] = []
        sources: list[tuple[str, ...]] = []
        for label, entries in block.items():
            nothing = ("",) * (1 + len(entries))
            ours = ("", *(entry.source for entry in entries))
            sources += [nothing, ours, nothing] if compared else [ours]
            if compared:
                lines.append((f"{label}, paper", *(f"{entry.published.accuracy:.3f}" for entry in entries)))
            lines.append((f"{label}, ours", *(_shown(entry, numbers) for entry in entries)))
            if compared:
                differences = (entry.difference for entry in entries)
                signed = ("-" if one is None else f"{round(one, 3) + 0.0:+.3f}" for one in differences)
                lines.append(("difference", *signed))
        heading = "Shuffled split, beside the paper's" if compared else f"{split.capitalize()} split (not in the paper)"
        blocks.append(Block(heading, ("", *table.columns), tuple(lines), tuple(sources)))
    return Sheet(table.name, table.title, table.caption, tuple(blocks), table_csv(table), _headlines(table))


def _headlines(table: Table) -> tuple[str, ...]:
    """One line per row that is compared with the paper: ours, the paper's in brackets."""
    lines = []
    for label, entries in table.blocks.get("shuffled", {}).items():
        numbers = [
            f"{column} {entry.ours:.3f} ({entry.published.accuracy:.3f})"
            for column, entry in zip(table.columns, entries, strict=True)
            if entry.ours is not None
        ]
        if numbers:
            lines.append(f"{table.title.split(':')[0]}, {label}: {', '.join(numbers)}")
    return tuple(lines)


def table_csv(table: Table) -> str:
    """One line per place of the table."""
    lines = []
    for entry in table.entries():
        published = entry.published
        lines.append(
            [
                table.name,
                entry.split,
                published.tiles,
                f"{published.noise_fraction:g}",
                published.dataset,
                "" if entry.sigma is None else shown(entry.sigma),
                entry.status,
                "" if entry.reference is None else f"{entry.reference:.3f}",
                fixed(entry.ours),
                fixed(entry.difference),
                fixed(entry.spread),
                str(len(entry.values)),
                " ".join(entry.missing),
            ]
        )
    return csv_text(_HEAD, lines)


def _entry(records: Records, split: str, published: paper.Published) -> Entry:
    return _filled_in(records.positions.get((published.tiles, split, published.noise_fraction)), split, published)


def _baseline(records: Records, tiles: str, **other: object) -> Group | None:
    """The group that is the shuffled baseline without noise, but for some training settings."""
    base = records.positions.get((tiles, "shuffled", 0.0))
    if base is None:
        return None
    wanted = dataclasses.replace(base.config.train, **other)  # type: ignore[arg-type]  # of any field
    for group in records.groups:
        config = group.config
        if config.data == base.config.data and dataclasses.replace(config.train, seed=wanted.seed) == wanted:
            return group
    return None


def _filled_in(group: Group | None, split: str, published: paper.Published) -> Entry:
    rows = group.rows if group else ()
    sigma: Sigma | None = published.sigma
    if group and sigma:
        # The noise of Table 2 is what the job calls its table's; the caption says so where it is not the paper's.
        sigma = group.config.evaluate.table_sigma
    measured = [
        (row.id, row.validation_accuracy() if sigma is None else row.test_accuracy(NoiseLevel(sigma))) for row in rows
    ]
    return Entry(
        published,
        split,
        sigma,
        tuple(value for _, value in measured if value is not None),
        tuple(cell for cell, value in measured if value is None),
        rows[0].id if rows else "",
    )


def _filled(blocks: dict[str, dict[str, tuple[Entry, ...]]]) -> dict[str, dict[str, tuple[Entry, ...]]]:
    """Without the rows that no cell of the job belongs to; those of the paper's own split always stay."""
    kept = {}
    for split, block in blocks.items():
        rows = {label: row for label, row in block.items() if any(entry.status != "not in the job" for entry in row)}
        if rows or split == "shuffled":
            kept[split] = block if split == "shuffled" else rows
    return kept


def _caption(records: Records, *, noisy: bool) -> str:
    """What the numbers are, and where their settings are not the paper's."""
    parts = ["Pixel accuracy; difference is ours minus the paper's."]
    if noisy:
        sigmas = sorted(in_words(group.config.evaluate.table_sigma) for group in records.positions.values())
        parts.append(f"The test noise has sigma {', '.join(dict.fromkeys(sigmas))}.")
    if any(len(group.rows) > 1 for group in records.positions.values()):
        parts.append("Over seeds: mean ± sample standard deviation (n).")
    by_tiles = {tiles: paper.deviations(group.config) for (tiles, _, _), group in records.positions.items()}
    among: dict[str, list[str]] = {}
    for tiles, found in by_tiles.items():
        if found and tiles in paper.BATCH_SIZE:
            among.setdefault(", ".join(found), []).append(tiles)
    parts += [f"Settings of {' and '.join(tiles)} that are not the paper's: {found}." for found, tiles in among.items()]
    return " ".join(parts)


def _shown(entry: Entry, hole_numbers: Mapping[str, int]) -> str:
    if entry.ours is None:
        numbers = ", ".join(str(hole_numbers[cell]) for cell in entry.missing)
        return f"**hole {numbers}**" if numbers else "-"
    planned = len(entry.values) + len(entry.missing)
    if planned == 1:
        return f"{entry.ours:.3f}"
    count = f"n={planned}" if not entry.missing else f"n={len(entry.values)} of {planned}"
    return f"{entry.ours:.3f} ({count})" if entry.spread is None else f"{entry.ours:.3f} ± {entry.spread:.3f} ({count})"
