"""A run folder in, a folder of tables and figures out; and the copy of a run's records that is published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcseg.errors import ConfigError, IncompleteError
from hpcseg.files import write_bytes
from hpcseg.numerics import describe_code
from hpcseg.report import paper
from hpcseg.report.cells import cells_csv, cells_markdown, short_commit
from hpcseg.report.collect import Hole, Records, collect
from hpcseg.report.figures import FIGURES, SUFFIXES, Picture, draw
from hpcseg.report.page import page
from hpcseg.report.sheet import Sheet, markdown_table, sheet_markdown
from hpcseg.report.tables import TABLES
from hpcseg.runs.grid import read_plan
from hpcseg.runs.record import RunFolder, write_text

_OF_THE_PAPER = {"table1", "table2", "figure3", "figure7"}


@dataclass(frozen=True)
class Report:
    """What a report consists of, for the one who asked for it."""

    written: tuple[Path, ...]
    headlines: tuple[str, ...]
    """Our numbers with the paper's in brackets, one line per row of a table."""
    notes: tuple[str, ...]
    holes: tuple[Hole, ...]
    planned_with: str | None
    """The command that planned the run: again, it runs the missing cells. None when no cell is missing."""


def build_report(run: RunFolder, out: Path) -> Report:
    """Build every table and figure that the run's job names, from its records.

    Args:
        run: a run folder, or a folder that `publish` wrote.
        out: where tables.md, the CSVs and the figures go; files of the same names are replaced, and what an
            earlier report left of a table or figure that this one has not is removed.

    Raises:
        ConfigError: the job names a table or a figure that does not exist.
        IncompleteError: no cell of the run is finished, so there is nothing to show.
    """
    records = collect(run)
    wanted = records.plan["report"]
    _refuse_unknown("table", wanted["tables"], TABLES)
    _refuse_unknown("figure", wanted["figures"], FIGURES)
    if not any(row.evaluation for row in records.rows):
        raise IncompleteError(f"{run.path} has no finished cell yet, so there is nothing to report. {records.holes[0]}")
    tables = [TABLES[name](records) for name in wanted["tables"]]
    drawn = {name: draw(name, records) for name in wanted["figures"]}
    holes = (*records.holes, *(hole for picture in drawn.values() for hole in picture.holes))

    written = {f"{table.name}.csv": table.csv for table in tables} | {"cells.csv": cells_csv(records)}
    pictures = {f"{name}.{suffix}": data for name, picture in drawn.items() for suffix, data in picture.files.items()}
    written["tables.md"] = _document(records, tables, drawn, holes)
    written["report.html"] = page(records, tables, drawn, holes, _notes(records), _origin(records))
    for name, text in written.items():
        write_text(out / name, text)
    for name, content in pictures.items():
        write_bytes(out / name, content)
    possible = {f"{name}.csv" for name in TABLES} | {f"{name}.{suffix}" for name in FIGURES for suffix in SUFFIXES}
    for name in possible - set(written) - set(pictures):
        (out / name).unlink(missing_ok=True)
    headlines = tuple(line for table in tables for line in table.headlines)
    paths = tuple(out / name for name in (*written, *pictures))
    command = records.plan["command"] if records.holes else None
    return Report(paths, headlines, _notes(records), holes, command)


def publish(run: RunFolder, folder: Path) -> Report:
    """Copy the small record files of a run's cells into a folder, and build the report from that copy beside them.

    Args:
        run: the run, with at least one finished cell.
        folder: gets grid.json, code-*.diff, baselines/, cells/CELL/*.json(l) and the report. Records that the run no
            longer has go from it.

    Raises:
        ConfigError: the folder is a run itself, or holds what was published of another job.
    """
    target = RunFolder(folder)
    records = collect(run)
    if target.path.resolve() == run.path.resolve() or any(target.path.glob("cells/*/*.pt")):
        raise ConfigError(f"{folder} is a run folder, and publishing would overwrite its records. Publish elsewhere.")
    job = records.plan["job"]
    there = read_plan(target)["job"] if target.grid_file.exists() else job
    if there != job:
        raise ConfigError(f'{folder} holds the job "{there}", but this run is of "{job}". Publish into another folder.')
    for row in records.rows:
        copies = target.cell(row.id).record_files()
        for source, copy in zip(row.cell.folder.record_files(), copies, strict=True):
            if source.exists():
                write_bytes(copy, source.read_bytes())
            else:
                copy.unlink(missing_ok=True)
    for source in sorted(run.path.glob("code-*.diff")):
        write_bytes(target.path / source.name, source.read_bytes())
    for old in target.baselines.glob("*.json"):
        old.unlink()
    for source in sorted(run.baselines.glob("*.json")):
        write_bytes(target.baselines / source.name, source.read_bytes())
    write_bytes(target.grid_file, run.grid_file.read_bytes())
    return build_report(target, folder)


def _refuse_unknown(kind: str, names: Iterable[str], valid: Mapping[str, object]) -> None:
    for name in names:
        if name not in valid:
            raise ConfigError(f'report.{kind}s names the {kind} "{name}". Valid names are {", ".join(valid)}.')


def _document(records: Records, tables: list[Sheet], drawn: Mapping[str, Picture], holes: tuple[Hole, ...]) -> str:
    numbers = {hole.subject: number for number, hole in enumerate(holes, start=1)}
    parts = [f"# {records.plan['title']}", "Written by `hpcseg report` from the cells' records."]
    parts += ["\n".join(f"- {question}" for question in records.questions)] if records.questions else []
    parts += [sheet_markdown(table) for table in tables]
    parts += [f"## {found.title}\n\n![{found.title}]({name}.png)" for name, found in drawn.items() if found.files]
    parts.append(cells_markdown(records, numbers))
    parts.append("## Holes")
    parts.append("\n".join(f"{number}. {_as_markdown(hole)}" for number, hole in enumerate(holes, start=1)) or "None.")
    if records.holes:
        parts.append(f"The run was planned with `{records.plan['command']}`.")
    if notes := _notes(records):
        parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in notes))
    parts.append("## What this was made from")
    parts.append(markdown_table(("", ""), [[name, text] for name, text in _origin(records).items()], numbers=False))
    return "\n\n".join(parts) + "\n"


def _notes(records: Records) -> tuple[str, ...]:
    """What collecting noted, and which cells the paper's tables have no place for."""
    placed = {
        group
        for (tiles, _, fraction), group in records.positions.items()
        if tiles in paper.BATCH_SIZE and fraction in paper.NOISE_FRACTIONS
    }
    unplaced = [row.id for group in records.groups if group not in placed for row in group.rows]
    if not unplaced or not _OF_THE_PAPER & {*records.plan["report"]["tables"], *records.plan["report"]["figures"]}:
        return records.notes
    what = "Not in Tables 1 and 2 and Figures 3 and 7, for their other settings"
    return (*records.notes, f"{what}: {', '.join(unplaced)}.")


def _as_markdown(hole: Hole) -> str:
    return f"`{hole.subject}`: {hole.reason} {hole.remedy}"


def _origin(records: Records) -> dict[str, str]:
    """What the numbers come from: the plan, and every place and version that an accepted record names."""
    plan = records.plan
    trained = [row.training.record for row in records.rows if row.training]
    evaluated = [row.evaluation.record for row in records.rows if row.evaluation]
    made = [*trained, *evaluated]
    places = [record["provenance"] for record in made]
    return {
        "Job": f"{plan['job']}: {plan['title']}",
        "Planned": f"{plan['time']} by `{plan['command']}`, hpcseg {plan['hpcseg_version']}",
        "Data hash": f"`{plan['data_sha256']}`",
        "Code": describe_code(plan),
        "Cells": f"{len(evaluated)} of {len(records.rows)} finished, {len(trained)} trained",
        "Commits": _counted(short_commit(place.get("commit")) for place in places),
        "Hosts": _counted(_text(place.get("host")) for place in places),
        "Devices": _counted(_text(place.get("device")) for place in places),
        "Precision": _counted(record["precision"] for record in made),
        "Ranks": _counted(str(record["world_size"]) for record in made),
        "Versions": _counted(
            ", ".join(f"{name} {_text(place.get(name))}" for name in ("python", "torch", "numpy")) for place in places
        ),
        "Training": f"{sum(record['seconds'] for record in trained):.0f} s in all cells together",
        "Evaluation": f"{sum(record['seconds'] for record in evaluated):.0f} s in all cells together",
    }


def _counted(values: Iterable[str]) -> str:
    """Each value once, with the number of records that state it where they do not agree."""
    counts = Counter(values)
    return ", ".join(counts) if len(counts) == 1 else "; ".join(f"{value} ({n} records)" for value, n in counts.items())


def _text(value: Any) -> str:
    return "unknown" if value is None else str(value)
