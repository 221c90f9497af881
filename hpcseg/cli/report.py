"""The verb `report`: the records of a run become tables and figures beside the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcseg.cli import console
from hpcseg.cli.runs import find_run


def report(
    run: Annotated[
        Path | None, typer.Option(help="Folder of the run, or a published one.", show_default="the newest in runs/")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where the report goes.", show_default="RUN/report")
    ] = None,
    publish: Annotated[
        Path | None, typer.Option(help="Also copy the cells' small records and the report here.", show_default=False)
    ] = None,
) -> None:
    """Build Table 1, Table 2, Figure 3 and Figure 7 from the records of a run, beside the paper's numbers."""
    from hpcseg.report.build import build_report
    from hpcseg.report.build import publish as publish_records

    folder = find_run(run)
    built = build_report(folder, out or folder.report)
    written = list(built.written)
    if publish:
        written += publish_records(folder, publish).written
    for line in built.headlines:
        console.stdout.print(line)
    if built.headlines:
        console.stdout.print("(in brackets: the paper)")
    for note in built.notes:
        console.stdout.print(f"Note: {note}")
    if built.holes:
        console.stdout.print(f"{len(built.holes)} {'hole' if len(built.holes) == 1 else 'holes'}:")
    for hole in built.holes:
        console.stdout.print(f"  {hole}")
    if built.planned_with:
        console.stdout.print(f"The run was planned with: {built.planned_with}")
    for path in written:
        console.stdout.print(f"wrote {path}")
