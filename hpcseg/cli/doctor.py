"""The verb `doctor`: is this cluster ready for a grid, and if not, what mends it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from hpcseg.cli import console
from hpcseg.cli.options import AsJson, RankOptions
from hpcseg.cli.pack import DEFAULT_DATASET
from hpcseg.errors import SchedulerError
from hpcseg.runs.finding import OWN_JOB
from hpcseg.runs.folder import RUNS

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red", "not checked": "yellow"}


def doctor(
    job: Annotated[str, typer.Option(help="The job whose needs are checked.")] = OWN_JOB,
    data: Annotated[Path, typer.Option(help="The packed data set; passed over where there is none.")] = DEFAULT_DATASET,
    run: Annotated[Path, typer.Option(help="Folder in which runs are kept.")] = RUNS,
    wait: Annotated[float, typer.Option(min=1, help="Seconds for a short job on a compute node.")] = 180,
    no_job: Annotated[bool, typer.Option("--no-job", help="Check what needs no job only.")] = False,
    as_json: AsJson = False,
    *,
    slurm: RankOptions,
) -> None:
    """Check the cluster before anything is submitted: on this machine, and in one short job on a compute node."""
    from hpcseg.cluster.doctor import check_cluster
    from hpcseg.cluster.profile import resolve
    from hpcseg.jobfile import find_shipped, load_job

    resources = resolve(load_job(find_shipped("job", job)).needs, slurm.site(), slurm.wishes())
    with console.json_answer(as_json) as answer:
        answer["checks"] = []
        for check in check_cluster(resources, run, data if data.exists() else None, wait=None if no_job else wait):
            answer["checks"].append(dataclasses.asdict(check))
            console.row(check.verdict, f"{check.name}: {check.text}", style=_COLOURS[check.verdict])
            if check.remedy:
                console.row("", f"-> {check.remedy}")
        verdicts = [check["verdict"] for check in answer["checks"]]
        if "failed" in verdicts:
            raise SchedulerError(f"{verdicts.count('failed')} of {len(verdicts)} checks failed.")
        console.stdout.print("Nothing stands in the way. Next: hpcseg grid --dry-run")
