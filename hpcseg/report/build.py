"""A run folder in, a folder of tables, figures and one page of them all out."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

from hpcseg.files import open_regular, read_regular, remove_left, write_bytes
from hpcseg.records.cells import cells_csv
from hpcseg.records.collect import Records, collect
from hpcseg.records.compare import collect_to_compare
from hpcseg.records.filters import filter_notes
from hpcseg.records.origin import origin
from hpcseg.records.publish import copy_records
from hpcseg.report import baselines, paper
from hpcseg.report.answers import answers
from hpcseg.report.figures import FIGURES, SUFFIXES, draw
from hpcseg.report.page import Content, Live
from hpcseg.report.paper_tables import beside_the_papers
from hpcseg.report.table import CSV_HEAD, table_csv
from hpcseg.report.tables import TABLES
from hpcseg.report.texts import check_names
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.record import MOST_BYTES_OF_LINES

_PAGE, _DOCUMENT = "report.html", "tables.md"
_WRITTEN_BY = "Written by `hpcseg report` from the cells' records."
"""A line of the document that its template has."""
_WITH_A_FILTER = {"table1", "table2", "figure3", "figure7"}
_OF_THE_PAPER = {"batch_norm", "weight_decay", "whole_slices", "readings"} | _WITH_A_FILTER


@dataclass(frozen=True)
class Report:
    """What a report consists of, for the one who asked for it."""

    written: tuple[Path, ...]
    headlines: tuple[str, ...]
    """Our numbers with the paper's in brackets, one line per row of a table."""
    content: Content


def build_report(run: RunFolder, out: Path, live: Live | None = None, under_way: Container[str] = ()) -> Report:
    """Build every table and figure that the run's job names, from its records.

    Args:
        run: a run folder, or a folder that `publish` wrote.
        out: where report.html, tables.md, the CSVs and the figures go; files of the same names are replaced, and what
            an earlier report left of a table or figure that this one has not is removed.
        live: what the page says of a run that goes on; None: nothing.
        under_way: ids of the cells that run or wait for it.

    Raises:
        ConfigError: the job names a table or a figure that does not exist, or two groups claim a place of the paper's.
        IncompleteError: the run has no grid.json that can be read.
    """
    records = collect(run, under_way)
    return _build(records, out, origin(records), live)


def end_page(report: Report, out: Path) -> None:
    """Write the page of a report again, as of a run that does not go on."""
    write_bytes(out / _PAGE, _encoded(report.content.page(out)))


def compare(runs: Mapping[str, RunFolder], out: Path) -> Report:
    """The same of several runs, or of one run's variants, side by side; arguments as in `collect_to_compare`."""
    origins = {f"{name}: {label}": text for name, run in runs.items() for label, text in origin(collect(run)).items()}
    return _build(collect_to_compare(runs), out, origins)


def _build(records: Records, out: Path, made_from: Mapping[str, str], live: Live | None = None) -> Report:
    wanted = records.settings
    check_names(wanted, str(records.run.grid_file))
    tables = [TABLES[name](records) for name in wanted.tables]
    # In the middle of a run there is little else.
    under_way = ("epochs" for row in records.rows if row.epochs and not row.training)
    pictures = [draw(name, records) for name in dict.fromkeys([*wanted.figures, *under_way])]
    asked = {*wanted.tables, *wanted.figures}
    with_a_filter = bool(_WITH_A_FILTER & asked)
    no_filter = baselines.hole(records) if with_a_filter else None
    holes = (*records.holes, *(hole for one in pictures for hole in one.holes), *((no_filter,) if no_filter else ()))
    notes = (*records.caveats, *records.notes, *filter_notes(records))
    notes += records.unplaced(paper.BATCH_SIZE, paper.NOISE_FRACTIONS) if with_a_filter else ()
    shown = [one for one in pictures if one.files]
    of_the_paper = any(name in _OF_THE_PAPER or name.startswith("figure") for name in asked)
    content = Content(records, answers(records), tables, shown, holes, notes, made_from, of_the_paper)

    texts = {f"{table.name}.csv": table_csv(table) for table in tables} | {"cells.csv": cells_csv(records)}
    texts[_DOCUMENT] = content.markdown()
    files = {name: _encoded(text) for name, text in texts.items()}
    files |= {f"{one.name}.{suffix}": data for one in shown for suffix, data in one.files.items()}
    # Last: what it leads to is there then, and a build that is interrupted leaves no page that loads itself for ever.
    files[_PAGE] = _encoded(content.page(out, live))
    before = _of_the_last_report(out)
    for name, data in files.items():
        write_bytes(out / name, data)
    remove_left(out.glob(".*.tmp"))
    for name in before - set(files):
        (out / name).unlink(missing_ok=True)
    lines = tuple(
        f"{row}: {', '.join(f'{column} {ours:.3f} ({theirs:.3f})' for column, (ours, theirs) in of.items())}"
        for table in tables
        for row, of in beside_the_papers(table).items()
    )
    return Report(tuple(out / name for name in files), lines, content)


def _of_the_last_report(out: Path) -> set[str]:
    """Files of tables and figures that an earlier report has left in a folder; whatever else has such a name is not."""
    try:
        told = read_regular(out / _DOCUMENT, MOST_BYTES_OF_LINES).decode(errors="replace")
    except OSError:
        return set()
    if _WRITTEN_BY not in told:
        return set()
    pictures = {f"{name}.{suffix}" for name in FIGURES for suffix in SUFFIXES if f"]({name}.png)" in told}
    return pictures | {f"{name}.csv" for name in TABLES if _begins_as_ours(out / f"{name}.csv")}


def _begins_as_ours(file: Path) -> bool:
    try:
        with open_regular(file, "rb") as content:
            return content.read(len(CSV_HEAD)) == CSV_HEAD.encode()
    except OSError:
        return False


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def publish(run: RunFolder, folder: Path) -> Report:
    """Copy the small record files of a run's cells into a folder, and build the report from that copy beside them."""
    copy_records(collect(run), RunFolder(folder))
    return build_report(RunFolder(folder), folder)
