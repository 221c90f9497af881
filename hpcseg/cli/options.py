"""The options of several verbs: a run and its data, and what a job asks of Slurm."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from hpcseg.cluster.units import gibibytes, minutes
from hpcseg.errors import ConfigError

if TYPE_CHECKING:
    from hpcseg.cluster.profile import Profile

SLURM = "Slurm"
"""The panel of the help under which they stand."""
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
Cells = Annotated[list[str] | None, typer.Argument(help="Names, ids or patterns; none: the whole run.")]
Job = Annotated[
    str | None,
    typer.Option(
        help="Name of a shipped job (`hpcseg jobs`), or the path of a job file.",
        show_default="paper for the paper's slices, else segment",
    ),
]
Data = Annotated[Path, typer.Option(help="The packed data set.")]
RunOfJob = Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/JOB")]
Run = Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="the newest in runs/")]
RunOrPrediction = Annotated[
    Path | None,
    typer.Option("--run", help="Folder of the run, or of a prediction.", show_default="the newest in runs/"),
]
MovedData = Annotated[
    Path | None, typer.Option("--data", help="The packed data set of a cell, should it have moved.", show_default=False)
]
MEMORY: dict[str, Any] = {"parser": _usage(gibibytes), "metavar": "SIZE"}
"""How every option of memory is read."""
TIME: dict[str, Any] = {"parser": _usage(minutes), "metavar": "TIME"}
"""How every time limit is read."""


def _slurm(**more: Any) -> Any:
    """An option that only Slurm takes."""
    return typer.Option(**more, rich_help_panel=SLURM)


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """What a job asks of Slurm, for every verb that submits one."""

    profile: Annotated[str | None, _slurm(help="Name of a cluster profile, or its path.")] = None
    partition: Annotated[str | None, _slurm(help="Slurm partition.", show_default="the site's default")] = None
    account: Annotated[str | None, _slurm(help="Account to charge.")] = None
    qos: Annotated[str | None, _slurm(help="Quality of service.")] = None
    constraint: Annotated[str | None, _slurm(help='Node features, as sbatch spells them: "a100|h100".')] = None
    exclude: Annotated[str | None, _slurm(help="Nodes not to use: n1,n2.")] = None
    cpus_per_task: Annotated[int | None, _slurm(help="Cores per rank.")] = None
    mem: Annotated[float | None, _slurm(**MEMORY, help="Memory per node: 16G, 500M; a number alone is GiB.")] = None
    time: Annotated[
        int | None, _slurm(**TIME, help="Time limit of a job: 2:00:00, 1-12:00:00; a number alone is minutes.")
    ] = None
    setup: Annotated[list[str] | None, _slurm(help="Shell line before the command; repeatable.")] = None

    @property
    def wanted(self) -> bool:
        """Whether they say by themselves that it is for Slurm."""
        return bool(self.partition or self.profile)

    def site(self) -> Profile:
        """The profile that is named; raises ConfigError as `load_profile`."""
        from hpcseg.cluster.profile import Profile, load_profile

        return load_profile(self.profile, self.partition) if self.profile else Profile()

    def wishes(self, **more: Any) -> Profile:
        """What is typed, and more that has options of its own, as a profile that overrules that of the site."""
        from hpcseg.cluster.profile import Profile

        typed = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del typed["profile"]
        return Profile(**{**typed, "setup": tuple(self.setup) if self.setup else None, **more})


@dataclass(frozen=True, kw_only=True)
class RankOptions(SlurmOptions):
    """The same for jobs that may have several ranks."""

    nodes: Annotated[int | None, _slurm(help="Nodes per cell.")] = None
    gpus_per_node: Annotated[int | None, _slurm(help="GPUs on each node, one rank each; 0: on CPUs.")] = None
    ranks_per_node: Annotated[int | None, _slurm(help="Ranks on each node, where there are no GPUs.")] = None
