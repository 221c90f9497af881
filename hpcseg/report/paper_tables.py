"""Collected records in, the paper's tables out, its numbers beside ours. Reads no file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hpcseg.config import SPLITS, NoiseLevel, Sigma, in_words, shown
from hpcseg.report import paper
from hpcseg.report.collect import Group, Records
from hpcseg.report.observations import VALIDATION, observations
from hpcseg.report.sheet import INTERVAL, Block, Sheet, as_error, as_ratio, csv_text, fixed, signed
from hpcseg.report.statistics import Estimate, estimate

_HEAD = (
    "table,split,tiles,noise_fraction,set,sigma,status,paper,ours,difference,half_interval,sd,repetitions,missing_cells"
)


@dataclass(frozen=True)
class Entry:
    """One place of a table: the paper's number and ours."""

    published: paper.Published
    split: str
    sigma: Sigma | None
    """Noise of our test set; None for validation."""
    found: Estimate | None
    """Of the finished cells; None for none."""
    missing: tuple[str, ...]
    """Cells that the job has for this place and that are holes."""
    source: str = ""
    """The first of the cells that the job has for this place; "" for none."""

    @property
    def ours(self) -> float | None:
        """Mean over repetitions."""
        return None if self.found is None else self.found.mean

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
        """For the CSV: measured (perhaps of fewer repetitions than planned), hole, or not in the job."""
        if self.found:
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
    entries = tuple(
        _filled_in(records, group, "shuffled", one) for group, one in zip(groups, paper.BATCH_NORM, strict=True)
    )
    title = "Batch normalisation: small, no noise"
    block = {"shuffled": {"validation (small)": entries}}
    return Table(
        "batch_norm", title, f"Pixel accuracy; the paper says about 0.990 and about 0.980. {INTERVAL}", columns, block
    )


def weight_decay(records: Records) -> Table:
    """Figure 8's number: the large model without noise in training, with weight decay, on the noisy test set."""
    columns = ("without", "weight decay 1e-2")
    groups = [_baseline(records, "large"), _baseline(records, "large", weight_decay=paper.FIGURE_8_WEIGHT_DECAY)]
    entries = tuple(
        _filled_in(records, group, "shuffled", one) for group, one in zip(groups, paper.WEIGHT_DECAY, strict=True)
    )
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
            sources += [nothing, ours, ours, nothing] if compared else [ours, ours]
            if compared:
                lines.append((f"{label}, paper", *(f"{entry.published.accuracy:.3f}" for entry in entries)))
            lines.append((f"{label}, ours", *(_shown(entry, numbers) for entry in entries)))
            lines.append((f"{label}, errors in %", *(as_error(entry.found) for entry in entries)))
            if compared:
                differences = (entry.difference for entry in entries)
                lines.append(("difference", *("-" if one is None else signed(one, 3) for one in differences)))
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
                fixed(entry.found.half if entry.found else None),
                fixed(entry.found.sd if entry.found else None),
                str(len(entry.found.values) if entry.found else 0),
                " ".join(entry.missing),
            ]
        )
    return csv_text(_HEAD, lines)


def _entry(records: Records, split: str, published: paper.Published) -> Entry:
    group = records.positions.get((published.tiles, split, published.noise_fraction))
    return _filled_in(records, group, split, published)


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


def _filled_in(records: Records, group: Group | None, split: str, published: paper.Published) -> Entry:
    rows = group.rows if group else ()
    sigma: Sigma | None = published.sigma
    if group and sigma:
        # The noise of Table 2 is what the job calls its table's; the caption says so where it is not the paper's.
        sigma = group.config.evaluate.table_sigma
    level = VALIDATION if sigma is None else NoiseLevel(sigma).key
    table = observations(records)
    return Entry(
        published,
        split,
        sigma,
        estimate(table.of(group, level)) if group else None,
        tuple(row.id for row in rows if (row.id, level) not in table.places),
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
    parts.append(f"n is the number of repetitions. {INTERVAL}")
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
    done = len(entry.found.values) if entry.found else 0
    planned = done + len(entry.missing)
    count = f"n={planned}" if not entry.missing else f"n={done} of {planned}"
    return as_ratio(entry.found) + (f" ({count})" if planned > 1 else "")
