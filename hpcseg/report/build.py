"""A run folder in, a folder of tables, figures and one page of them all out."""

from __future__ import annotations

import os.path
from dataclasses import dataclass
from pathlib import Path

from hpcseg.errors import ConfigError
from hpcseg.files import write_bytes
from hpcseg.records.cells import cells_csv
from hpcseg.records.collect import collect
from hpcseg.records.filters import filter_notes
from hpcseg.records.origin import origin
from hpcseg.records.publish import copy_records
from hpcseg.report import baselines, paper
from hpcseg.report.answers import answers
from hpcseg.report.figures import FIGURES, SO_FAR, SUFFIXES, draw
from hpcseg.report.page import Content
from hpcseg.report.paper_tables import beside_the_papers
from hpcseg.report.table import table_csv
from hpcseg.report.tables import TABLES
from hpcseg.runs.record import RunFolder

_OF_THE_PAPER = {"table1", "table2", "figure3", "figure7"}


@dataclass(frozen=True)
class Report:
    """What a report consists of, for the one who asked for it."""

    written: tuple[Path, ...]
    headlines: tuple[str, ...]
    """Our numbers with the paper's in brackets, one line per row of a table."""
    content: Content
    planned_with: str | None
    """The command that planned the run: again, it runs the missing cells. None when no cell is missing."""


def build_report(run: RunFolder, out: Path) -> Report:
    """Build every table and figure that the run's job names, from its records.

    Args:
        run: a run folder, or a folder that `publish` wrote.
        out: where report.html, tables.md, the CSVs and the figures go; files of the same names are replaced, and what
            an earlier report left of a table or figure that this one has not is removed.

    Raises:
        ConfigError: the job names a table or a figure that does not exist, or two groups claim a place of the paper's.
        IncompleteError: the run has no grid.json that can be read.
    """
    records = collect(run)
    wanted = records.settings
    for kind, names, valid in (("table", wanted.tables, list(TABLES)), ("figure", wanted.figures, list(FIGURES))):
        for name in names:
            if name not in valid:
                raise ConfigError(f'report.{kind}s names the {kind} "{name}". Valid names are {", ".join(valid)}.')
    tables = [TABLES[name](records) for name in wanted.tables]
    # In the middle of a run there is little else.
    so_far = [SO_FAR] if records.holes and SO_FAR not in wanted.figures else []
    pictures = [draw(name, records) for name in (*wanted.figures, *so_far)]
    of_the_paper = bool(_OF_THE_PAPER & {*wanted.tables, *wanted.figures})
    no_filter = baselines.hole(records) if of_the_paper else None
    holes = (*records.holes, *(hole for one in pictures for hole in one.holes), *((no_filter,) if no_filter else ()))
    notes = (*records.notes, *filter_notes(records))
    notes += records.unplaced(paper.BATCH_SIZE, paper.NOISE_FRACTIONS) if of_the_paper else ()
    shown = [one for one in pictures if one.files]
    content = Content(records, answers(records), tables, shown, holes, notes, origin(records))

    texts = {f"{table.name}.csv": table_csv(table) for table in tables} | {"cells.csv": cells_csv(records)}
    texts |= {"tables.md": content.markdown(), "report.html": content.page(os.path.relpath(run.path, out))}
    files = {name: text.encode(errors="backslashreplace") for name, text in texts.items()}
    files |= {f"{one.name}.{suffix}": data for one in shown for suffix, data in one.files.items()}
    for name, data in files.items():
        write_bytes(out / name, data)
    possible = {f"{name}.csv" for name in TABLES} | {f"{name}.{suffix}" for name in FIGURES for suffix in SUFFIXES}
    for name in possible - set(files):
        (out / name).unlink(missing_ok=True)
    lines = tuple(
        f"{row}: {', '.join(f'{column} {ours:.3f} ({theirs:.3f})' for column, (ours, theirs) in of.items())}"
        for table in tables
        for row, of in beside_the_papers(table).items()
    )
    return Report(
        tuple(out / name for name in files), lines, content, records.plan["command"] if records.holes else None
    )


def publish(run: RunFolder, folder: Path) -> Report:
    """Copy the small record files of a run's cells into a folder, and build the report from that copy beside them."""
    copy_records(collect(run), RunFolder(folder))
    return build_report(RunFolder(folder), folder)
