"""The verb `clean`: remove what a run no longer needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcseg.cli import console
from hpcseg.cli.runs import find_run


def clean(
    run: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="the newest in runs/")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, remove nothing.")] = False,
) -> None:
    """Remove pickles, scripts and superseded logs that are an hour old; never results, never the last log of a cell."""
    from hpcseg.cluster.clean import leftovers
    from hpcseg.cluster.states import run_status
    from hpcseg.errors import SchedulerError

    status = run_status(find_run(run))
    if not status.answered:
        raise SchedulerError("Slurm does not answer, so it is not known which jobs still need their files. Try later.")
    size = number = 0
    for path in leftovers(status):
        number, size = number + 1, size + path.stat().st_size
        if dry_run:
            console.stdout.print(f"  {path}")
        else:
            path.unlink(missing_ok=True)
    console.stdout.print(f"{'Would remove' if dry_run else 'Removed'} {number} files, {size / 1e6:.1f} MB.")
