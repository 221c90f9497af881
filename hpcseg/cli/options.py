"""The options of several verbs: a run and its data, and what a job asks of Slurm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from hpcseg.cluster.units import gibibytes, minutes
from hpcseg.errors import ConfigError

_SLURM = "Slurm"
_T = TypeVar("_T")


def _usage(read: Callable[[str], _T]) -> Callable[[str], _T]:
    """The same, whose refusal names the option, as click's own do."""

    def parse(text: str) -> _T:
        try:
            return read(text)
        except ConfigError as error:
            raise typer.BadParameter(str(error)) from None

    return parse


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and all else on stderr.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replace a setting of the job; repeatable."),
]
Run = Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="the newest in runs/")]
MovedData = Annotated[
    Path | None, typer.Option("--data", help="The packed data set of a cell, should it have moved.", show_default=False)
]
ProfileName = Annotated[
    str | None, typer.Option("--profile", help="Name of a cluster profile, or its path.", rich_help_panel=_SLURM)
]
Partition = Annotated[
    str | None, typer.Option(help="Slurm partition.", show_default="the site's default", rich_help_panel=_SLURM)
]
Account = Annotated[str | None, typer.Option(help="Account to charge.", rich_help_panel=_SLURM)]
Qos = Annotated[str | None, typer.Option(help="Quality of service.", rich_help_panel=_SLURM)]
Constraint = Annotated[
    str | None, typer.Option(help='Node features, as sbatch spells them: "a100|h100".', rich_help_panel=_SLURM)
]
Exclude = Annotated[str | None, typer.Option(help="Nodes not to use: n1,n2.", rich_help_panel=_SLURM)]
Nodes = Annotated[int | None, typer.Option(help="Nodes per cell.", rich_help_panel=_SLURM)]
GpusPerNode = Annotated[
    int | None, typer.Option(help="GPUs on each node, one rank each; 0: on CPUs.", rich_help_panel=_SLURM)
]
RanksPerNode = Annotated[
    int | None, typer.Option(help="Ranks on each node, where there are no GPUs.", rich_help_panel=_SLURM)
]
CpusPerTask = Annotated[int | None, typer.Option(help="Cores per rank.", rich_help_panel=_SLURM)]
MEMORY: dict[str, Any] = {"parser": _usage(gibibytes), "metavar": "SIZE"}
"""How every option of memory is read."""
TIME: dict[str, Any] = {"parser": _usage(minutes), "metavar": "TIME"}
"""How every time limit is read."""
Mem = Annotated[
    float | None,
    typer.Option(**MEMORY, help="Memory per node: 16G, 500M; a number alone is GiB.", rich_help_panel=_SLURM),
]
Time = Annotated[
    int | None,
    typer.Option(
        **TIME, help="Time limit of a job: 2:00:00, 1-12:00:00; a number alone is minutes.", rich_help_panel=_SLURM
    ),
]
Setup = Annotated[
    list[str] | None, typer.Option(help="Shell line before the command; repeatable.", rich_help_panel=_SLURM)
]
