"""The verb `doctor`: is this cluster ready for a grid, and if not, what mends it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from hpcseg.cli import console
from hpcseg.cli.options import (
    Account,
    Constraint,
    CpusPerTask,
    Exclude,
    GpusPerNode,
    Mem,
    Nodes,
    Partition,
    ProfileName,
    Qos,
    RanksPerNode,
    Setup,
    Time,
)
from hpcseg.cli.pack import DEFAULT_DATASET
from hpcseg.errors import SchedulerError
from hpcseg.runs.finding import OWN_JOB, RUNS

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red", "not checked": "yellow"}


def doctor(
    job: Annotated[str, typer.Option(help="The job whose needs are checked.")] = OWN_JOB,
    data: Annotated[Path, typer.Option(help="The packed data set; passed over where there is none.")] = DEFAULT_DATASET,
    run: Annotated[Path, typer.Option(help="Folder in which runs are kept.")] = RUNS,
    wait: Annotated[float, typer.Option(min=1, help="Seconds for a short job on a compute node.")] = 180,
    no_job: Annotated[bool, typer.Option("--no-job", help="Check what needs no job only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    profile: ProfileName = None,
    partition: Partition = None,
    account: Account = None,
    qos: Qos = None,
    constraint: Constraint = None,
    exclude: Exclude = None,
    nodes: Nodes = None,
    gpus_per_node: GpusPerNode = None,
    ranks_per_node: RanksPerNode = None,
    cpus_per_task: CpusPerTask = None,
    mem: Mem = None,
    time: Time = None,
    setup: Setup = None,
) -> None:
    """Check the cluster before anything is submitted: on this machine, and in one short job on a compute node."""
    from hpcseg.cluster.doctor import check_cluster
    from hpcseg.cluster.profile import Profile, load_profile, resolve
    from hpcseg.jobfile import find_job, load_job

    options = Profile(
        partition=partition,
        account=account,
        qos=qos,
        constraint=constraint,
        exclude=exclude,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        ranks_per_node=ranks_per_node,
        cpus_per_task=cpus_per_task,
        mem=mem,
        time=time,
        setup=tuple(setup) if setup else None,
    )
    resources = resolve(
        load_job(find_job(job)).needs, load_profile(profile, partition) if profile else Profile(), options
    )
    checks = []
    for check in check_cluster(resources, run, data if data.exists() else None, wait=None if no_job else wait):
        checks.append(check)
        if as_json:
            continue
        console.row(check.verdict, f"{check.name}: {check.text}", style=_COLOURS[check.verdict])
        if check.remedy:
            console.row("", f"-> {check.remedy}")
    verdicts = [check.verdict for check in checks]
    if as_json:
        console.stdout.print(json.dumps({"checks": [dataclasses.asdict(check) for check in checks]}, indent=1))
    if "failed" in verdicts:
        raise SchedulerError(f"{verdicts.count('failed')} of {len(checks)} checks failed.")
    if not as_json:
        console.stdout.print("Nothing stands in the way. Next: hpcseg grid --dry-run")
