"""The verb `clean`: remove what a run no longer needs."""

from __future__ import annotations

from typing import Annotated

import typer

from hpcseg.cli import console
from hpcseg.cli.options import AsJson, Cells, Run
from hpcseg.runs.finding import choose_cells, find_own_run
from hpcseg.text import counted


def clean(
    cells: Cells = None,
    run: Run = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove pickles, scripts and superseded logs that are an hour old; never results, never the last log of a cell."""
    from hpcseg.cluster.clean import leftovers
    from hpcseg.cluster.states import run_status
    from hpcseg.errors import SchedulerError

    status = run_status(find_own_run(run))
    if not status.answered:
        raise SchedulerError("Slurm does not answer, so it is not known which jobs still need their files. Try later.")
    chosen = choose_cells(status.cells, cells) if cells else None
    found = {path: path.lstat().st_size for path in leftovers(status, chosen)}
    with console.json_answer(as_json) as answer:
        for path in found:
            if dry_run:
                console.stdout.print(f"  {path}")
            else:
                path.unlink(missing_ok=True)
        size = sum(found.values())
        answer.update(
            {"run": str(status.run.path), "dry_run": dry_run, "files": [str(p) for p in found], "bytes": size}
        )
        did = "Would remove" if dry_run else "Removed"
        console.stdout.print(f"{did} {counted(len(found), 'file')}, {size / 1e6:.1f} MB.")
