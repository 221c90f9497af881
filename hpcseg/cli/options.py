"""The options that say what a cell's job asks of Slurm, for all verbs that ask."""

from __future__ import annotations

from typing import Annotated

import typer

_SLURM = "Slurm"

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and all else on stderr.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replace a setting of the job; repeatable."),
]
ProfileName = Annotated[
    str | None, typer.Option("--profile", help="Name of a cluster profile, or its path.", rich_help_panel=_SLURM)
]
Partition = Annotated[str | None, typer.Option(rich_help_panel=_SLURM)]
Account = Annotated[str | None, typer.Option(rich_help_panel=_SLURM)]
Qos = Annotated[str | None, typer.Option(rich_help_panel=_SLURM)]
Constraint = Annotated[str | None, typer.Option(rich_help_panel=_SLURM)]
Exclude = Annotated[str | None, typer.Option(help="Nodes not to use.", rich_help_panel=_SLURM)]
Nodes = Annotated[int | None, typer.Option(help="Nodes per cell.", rich_help_panel=_SLURM)]
GpusPerNode = Annotated[int | None, typer.Option(help="One rank each.", rich_help_panel=_SLURM)]
RanksPerNode = Annotated[
    int | None, typer.Option(help="Ranks per node, where there are no GPUs.", rich_help_panel=_SLURM)
]
CpusPerTask = Annotated[int | None, typer.Option(help="Cores per rank.", rich_help_panel=_SLURM)]
Mem = Annotated[float | None, typer.Option(help="Memory per node in GiB.", rich_help_panel=_SLURM)]
Time = Annotated[int | None, typer.Option(help="Time limit of a job in minutes.", rich_help_panel=_SLURM)]
Setup = Annotated[
    list[str] | None, typer.Option(help="Shell line before the command; repeatable.", rich_help_panel=_SLURM)
]
