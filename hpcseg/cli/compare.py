"""The verb `compare`: runs, or the variants of one, side by side in one report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcseg.cli import console
from hpcseg.cli.options import AsJson
from hpcseg.cli.report import show_report
from hpcseg.runs.finding import find_run, run_called


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN [RUN]...",
            help="Folders of runs, or their names in runs/. One alone: its variants by --set, side by side.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the report goes.")] = Path("comparison"),
    as_json: AsJson = False,
) -> None:
    """Put runs of the same data, or the variants of one run, into one report: what differs, and what it brings."""
    from hpcseg.report.build import compare as build_comparison

    folders = {name: find_run(run_called(name)) for name in dict.fromkeys(name.rstrip("/") for name in runs)}
    with console.json_answer(as_json) as answer:
        built = build_comparison(folders, out)
        answer["runs"] = [str(one.path) for one in folders.values()]
        show_report(built, (), built.written, answer)
