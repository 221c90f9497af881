"""Several runs, or the variants of one, as the records of one report."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from hpcseg.config import ReportConfig
from hpcseg.errors import ConfigError, IncompleteError
from hpcseg.records.collect import Records, collect, read_row
from hpcseg.records.groups import grouped, placed
from hpcseg.records.row import Row
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import planned, read_cell

_REPORT = ReportConfig(tables=("compared", "axes", "resources"), figures=("epochs",))
_AS_IN_THE_JOB = "the job file's own"


def collect_to_compare(runs: Mapping[str, RunFolder]) -> Records:
    """The records of runs side by side: one group per run and setting. Cells of both are in both.

    Args:
        runs: by what the report calls them; a cell of several whose records differ has those of each. One alone is
            compared within itself: the variants that were made of it with `--set`, whose cells lie in one folder,
            whether or not its job lists them still.

    Raises:
        ConfigError: the runs are of other data, or there is nothing to compare.
        IncompleteError: a folder has no grid.json that this version can read.
    """
    found = {name: collect(run) for name, run in runs.items()}
    first = next(iter(found.values()))
    _check_data(found)
    notes = [note for one in found.values() for note in one.notes]
    if len(found) == 1:
        variants, notes = _variants(first)  # which takes in what the notes of its plan say was not read
    else:
        variants = {name: list(one.rows) for name, one in found.items()}
        code = {name: one.plan.code(digits=8) for name, one in found.items()}
        if len(set(code.values())) > 1:
            listed = ", ".join(f"{name} with {text}" for name, text in code.items())
            notes.append(f"Computed otherwise, which may be what differs: {listed}.")
    rows: dict[str, Row] = {}
    for name, of in variants.items():
        # A cell's id does not tell its evaluation, nor where it was trained: what a run says of it is its own.
        variants[name] = [
            _own(row, name) if row.id in rows and not row.same_records(rows[row.id]) else row for row in of
        ]
        rows = {row.id: row for row in variants[name]} | rows
    rows = {row.id: row for row in placed(rows.values())}
    groups = [grouped([rows[row.id] for row in of], name) for name, of in variants.items()]
    flattened = tuple(group for of in groups for group in of)
    if len(flattened) < 2:
        raise ConfigError(
            f"{first.run.path} has cells of one setting only, so there is nothing to compare. Name several runs, or "
            "make variants with `hpcseg grid --set SECTION.KEY=VALUE` first."
        )
    title = f"{' and '.join(found)} compared" if len(found) > 1 else f"Variants of {next(iter(found))}"
    plan = msgspec.structs.replace(first.plan, title=title)
    return Records(first.run, plan, _REPORT, tuple(rows.values()), flattened, tuple(dict.fromkeys(notes)))


def _own(row: Row, run: str) -> Row:
    own = dataclasses.replace(row, run=run)
    return dataclasses.replace(own, hole=row.hole and dataclasses.replace(row.hole, subject=own.id))


def _check_data(found: Mapping[str, Records]) -> None:
    hashes = {name: one.plan.data_sha256[:8] for name, one in found.items()}
    if len(set(hashes.values())) > 1:
        listed = ", ".join(f"{name} of {sha256}" for name, sha256 in hashes.items())
        raise ConfigError(
            f"These runs are of other data, by their hashes ({listed}), so they were tested on other pixels and their "
            "differences would say nothing. Compare runs of one packed file."
        )


def _variants(records: Records) -> tuple[dict[str, list[Row]], list[str]]:
    """All cells of a run by the `--set` options of their first plan that set them apart; and what was left out."""
    listed = {row.id for row in records.rows}
    others, unread = list[Row](), list[str]()
    for folder in records.run.cell_folders():
        if folder.id not in listed:
            try:
                row = read_row(read_cell(folder), records.plan)
            except (ConfigError, IncompleteError):
                row = None
            if row is None or row.training is None:
                unread.append(folder.id)
            else:
                others.append(row)
    rows = (*records.rows, *others)
    planned_with = [_planned_with(row) for row in rows]
    common = set.intersection(*map(set, planned_with))
    variants: dict[str, list[Row]] = {}
    for row, options in zip(rows, planned_with, strict=True):
        name = ", ".join(option for option in options if option not in common) or _AS_IN_THE_JOB
        variants.setdefault(name, []).append(row)
    left_out = "cell folders were left out, since they are not trained, or of other code or other data"
    notes = [f"{len(unread)} {left_out}: {', '.join(unread)}."] if unread else []
    # Whichever was made last: the first one is what the others are set against.
    variants = {name: variants[name] for name in sorted(variants, key=lambda name: (name != _AS_IN_THE_JOB, name))}
    return (variants if len(variants) > 1 else {"": list(records.rows) + others}), notes


def _planned_with(row: Row) -> list[str]:
    """The `--set` options of the command that planned a cell first."""
    try:
        words = shlex.split(planned(row.cell.folder).command or "")
    except (IncompleteError, ValueError):
        words = []
    return list(_values(words))


def _values(words: Sequence[str]) -> Iterable[str]:
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == "--set":
            yield following
        elif word.startswith("--set="):
            yield word.removeprefix("--set=")
