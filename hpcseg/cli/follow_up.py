"""The verb `follow-up`, which the job behind all cells of a submission runs: no command for people, so it is hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpcseg.cli import console
from hpcseg.runs.finding import find_own_run


def follow_up(run: Annotated[Path, typer.Option(help="Folder of the run.")]) -> None:
    """Submit again what failed for the cluster's sake, and what the site's limits left no room for."""
    from hpcseg.cluster.retry import follow_up

    for line in follow_up(find_own_run(run)).lines():
        console.stdout.print(line)
