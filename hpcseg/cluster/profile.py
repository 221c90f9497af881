"""What a job needs, a site's profile and the command line in; the resources of one job out.

The job file says what a cell needs, a profile how a site spells it, and an option on the command line has the last
word.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpcseg.cluster.units import gibibytes, minutes
from hpcseg.config import NeedsConfig
from hpcseg.errors import ConfigError
from hpcseg.jobfile import find_shipped, read_toml
from hpcseg.tables import build_config
from hpcseg.text import refuse_controls

# What users write as Slurm does has its unit in its name once it is decided.
_RESOURCES = {"mem": "memory_gib", "time": "minutes", "max_mem": "max_memory_gib", "max_time": "max_minutes"}
_READERS = {"time": minutes, "mem": gibibytes, "max_time": minutes, "max_mem": gibibytes}
GPU_SYNTAXES = ("gpus-per-node", "gres", "gpus-per-task", "none")
OPTION_TABLES = ("sbatch", "srun")
"""Keys of a profile under which options go through to a command of Slurm."""
PARTITIONS = "partitions"
"""The key of a profile under which a partition has a table of its own."""
# They are put into scripts as they are, within whatever quotes there are.
_PLACE = re.compile(r"(/[\w.+@-]+)+")
_OPTION = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# Of sbatch what a profile says otherwise, and what a job needs as it is.
_OWN_KEYS = {
    **{name: name for name in ("partition", "account", "qos", "constraint", "exclude", "nodes", "time", "mem")},
    "cpus-per-task": "cpus_per_task",
    "ntasks": "ranks_per_node",
    "ntasks-per-node": "ranks_per_node",
}
GPU_OPTIONS = frozenset({"gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "gres", "tres-per-task"})
"""Options of sbatch that ask for GPUs."""
MEMORY_OPTIONS = frozenset({"mem-per-cpu", "mem-per-gpu"})
"""Options of sbatch in the place of its memory per node."""
# Of no use to a job without GPUs, or refused there.
_OF_GPUS = GPU_OPTIONS | {"mem-per-gpu", "cpus-per-gpu", "gpu-bind", "gpu-freq", "ntasks-per-gpu"}
# Such as a local disk.
_OTHER_GRES = re.compile(r"gres=(?!.*\b(gpu|mps|shard)\b).*")
_OURS = frozenset(
    {"array", "comment", "dependency", "error", "job-name", "no-requeue", "open-mode", "output", "requeue", "signal"}
    | {"chdir", "parsable", "test-only", "wait", "wrap", "kill-on-bad-exit", "unbuffered"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportJob:
    """What is otherwise for the job of one core that follows all others: it tries again what failed, and reports."""

    partition: str | None = None
    """Slurm partition; this and the next three as of the cells where they are None."""
    account: str | None = None
    """Account to charge."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Node features, as sbatch spells them."""
    mem: float | None = None
    """Host memory: a number of GiB, or a text with a unit; None: 2 GiB."""
    time: int | None = None
    """Time limit: a number of minutes, or a text such as "1:00:00"; None: half an hour."""
    sbatch: tuple[str, ...] | None = None
    """A table of further options of sbatch; None: those of the cells that ask for no GPU and no memory."""

    def __post_init__(self) -> None:
        for name in ("mem", "time"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ConfigError(f"report.{name} is {value}, but it must be above 0.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """A site's wishes, from a TOML file or the command line; None leaves a wish to the next in line."""

    partition: str | None = None
    """Slurm partition; None: the site's default."""
    account: str | None = None
    """Account to charge."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Node features, as sbatch spells them."""
    exclude: str | None = None
    """Nodes that must not be used, as sbatch spells them."""
    gpu_syntax: str | None = None
    """How GPUs are asked for: "gpus-per-node", "gres", "gpus-per-task", or "none" where a partition implies them."""
    gpus_per_node: int | None = None
    """GPUs on each node, one rank each."""
    ranks_per_node: int | None = None
    """Ranks on each node; None: one per GPU, or one."""
    nodes: int | None = None
    """Nodes per cell."""
    cpus_per_task: int | None = None
    """Cores per rank."""
    mem: float | None = None
    """Host memory per node: a number of GiB, or a text with a unit such as "16G" or "500M"."""
    time: int | None = None
    """Time limit of one job: a number of minutes, or a text such as "2:00:00"; a cell that needs longer is requeued and
    goes on."""
    max_mem: float | None = None
    """Memory up to which a cell that ran out of it gets twice as much in its next job: a number of GiB, or a text as
    of `mem`; None: that is left to the user."""
    max_time: int | None = None
    """Time limit up to which a cell that met it without a checkpoint in time gets twice as long in its next job: a
    number of minutes, or a text as of `time`; None: as long as before."""
    setup: tuple[str, ...] | None = None
    """Shell lines before the job's command, such as module loads."""
    python: str | None = None
    """Command that runs Python in a job, as the shell takes it, such as "apptainer exec --nv hpcseg.sif python3"; None:
    the Python that submits."""
    sbatch: tuple[str, ...] | None = None
    """A table of further options of sbatch, which go through as they are: `reservation = "beamtime"`, `gres =
    "gpu:a100:1"`, `exclusive = true`. One for GPUs or memory takes the place of hpcseg's own."""
    srun: tuple[str, ...] | None = None
    """The same for the srun that starts the ranks, such as `container-image` of pyxis."""
    report: ReportJob | None = None
    """A table of what is otherwise for the job that follows all others."""
    paths: tuple[str, ...] | None = None
    """A table of folders that nodes see under another name: `"/home/ann" = "/cluster/home/ann"`. It is used in all that
    a job's script names."""
    max_array_size: int | None = None
    """Most tasks of one array; None: what `scontrol show config` says."""
    throttle: int | None = None
    """Array tasks that may run at once; None: as many as the site allows."""
    cells_per_job: int | None = None
    """Most cells that one job takes, one after the other in one process; None: as many as a quarter of an hour holds by
    the bench of such a device (`hpcseg bench`), one without a bench."""
    tries: int | None = None
    """Jobs that a cell gets before it is left to the user, where it fails for the cluster's sake; None: 3."""

    def __post_init__(self) -> None:
        if self.gpu_syntax is not None and self.gpu_syntax not in GPU_SYNTAXES:
            raise ConfigError(f'gpu_syntax is "{self.gpu_syntax}", but it must be one of {", ".join(GPU_SYNTAXES)}.')
        limits = ("max_array_size", "throttle", "cells_per_job", "tries")
        for name in ("ranks_per_node", "nodes", "cpus_per_task", "time", *limits, "mem", "max_mem", "max_time"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} is {value}, but it must be above 0.")
        if self.gpus_per_node is not None and self.gpus_per_node < 0:
            raise ConfigError(f"gpus_per_node is {self.gpus_per_node}, but it must be 0 or more.")

    def options(self) -> list[str]:
        """What is wished for, as options of the command line."""
        wishes = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return [f"--{name.replace('_', '-')}" for name, value in wishes.items() if value is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """The resources of one job, decided."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gpu_syntax: str = "gpus-per-node"
    gpus_per_node: int
    ranks_per_node: int
    nodes: int
    cpus_per_task: int
    memory_gib: float
    minutes: int
    setup: tuple[str, ...] = ()
    max_array_size: int | None = None
    throttle: int | None = None
    tries: int = 3
    cells_per_job: int = 1
    max_memory_gib: float | None = None
    max_minutes: int | None = None
    python: str | None = None
    sbatch: tuple[str, ...] = ()
    srun: tuple[str, ...] = ()
    report: ReportJob = field(default_factory=ReportJob)
    paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _refuse_controls(self)

    def on_nodes(self, text: str) -> str:
        """As the function of this name."""
        return on_nodes(text, self.paths)


def on_nodes(text: str, paths: Sequence[str]) -> str:
    """A path, or a text with paths, as the nodes see them, by the `paths` of a profile."""
    if not paths:
        return text
    places = dict(path.split("=") for path in paths)
    # A part of a longer path, or of a longer name, is another place.
    known = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))
    return re.sub(rf"(?<![\w./+@-])({known})(?![\w.+@-])", lambda found: places[found[1]], text)


def without_gpus(flags: Sequence[str], *further: str) -> tuple[str, ...]:
    """Options, as "name=value" or "name", without those of GPUs, and without further ones."""
    unwanted = _OF_GPUS | set(further)
    return tuple(flag for flag in flags if flag.partition("=")[0] not in unwanted or _OTHER_GRES.fullmatch(flag))


def with_memory(resources: Resources, gibibytes: float) -> Resources:
    """The same resources with another memory per node, in the place of one per CPU or GPU."""
    sbatch = tuple(flag for flag in resources.sbatch if flag.partition("=")[0] not in MEMORY_OPTIONS)
    return dataclasses.replace(resources, memory_gib=gibibytes, sbatch=sbatch)


def _refuse_other_gpus(wanted: int, flags: Sequence[str]) -> None:
    """Raises ConfigError where options ask sbatch for another number of GPUs per node than the command line."""
    for flag in flags:
        name, _, value = flag.partition("=")
        items = value.split(",") if name == "gpus-per-node" else re.findall(r"(?<![^,])gpu(?::[^,]*)?", value)
        counts = [item.rpartition(":")[2] for item in items]
        number = sum(int(count) if count.isdecimal() else 1 for count in counts)
        if name in ("gres", "gpus-per-node") and items and number != wanted:
            raise ConfigError(
                f"--gpus-per-node is {wanted}, but the profile asks sbatch for {flag}. Write the number there, or take "
                "another profile."
            )


def _refuse_controls(settings: Any) -> None:
    for setting in dataclasses.fields(settings):
        value = getattr(settings, setting.name)
        if dataclasses.is_dataclass(value):
            _refuse_controls(value)
        # Lines of setup are code, and may be of any kind.
        elif setting.name != "setup":
            for text in (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ():
                refuse_controls(text, setting.name)


def load_profile(name: str, partition: str | None = None) -> Profile:
    """A profile by the name of a shipped one or the path of a TOML file.

    Args:
        name: or path.
        partition: the partition that is asked for; None: the profile's own. Where the profile has a table for it, that
            has the last word.

    Raises:
        ConfigError: there is none, or it has an unknown key or a wrong value.
    """
    path = find_shipped("profile", name)
    content = read_toml(path)
    tables = content.pop(PARTITIONS, {})
    if not (isinstance(tables, dict) and all(isinstance(table, dict) for table in tables.values())):
        raise ConfigError(f'{path}: {PARTITIONS} must hold tables, such as [{PARTITIONS}.gpu] and mem = "32G".')
    base = _built(copy.deepcopy(content), str(path))
    # All of them are read, so that a fault is found before somebody needs that one.
    own = {}
    for of, table in tables.items():
        if "partition" in table:
            raise ConfigError(f"{path}: {PARTITIONS}.{of} is the table of that partition, and names no other.")
        own[of] = _built({**_over(content, table), "partition": of}, f"{path}: {PARTITIONS}.{of}")
    chosen = partition or base.partition or ""
    if chosen not in own and (named := own.keys() & set(chosen.split(","))):
        raise ConfigError(
            f"{path} has a table for {', '.join(sorted(named))}, which says what differs there. Choose one partition, "
            f'or give it a table for all: [{PARTITIONS}."{chosen}"].'
        )
    return own.get(chosen, base)


def _over(below: Any, above: Any) -> Any:
    """A table over another, and tables in it likewise; neither is changed."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return copy.deepcopy(above)
    return {**copy.deepcopy(below), **{key: _over(below.get(key), value) for key, value in above.items()}}


def _built(content: dict[str, Any], where: str) -> Profile:
    report = content.get("report")
    for table, of in ((content, ""), *([(report, "report.")] if isinstance(report, dict) else [])):
        try:
            for key, read in _READERS.items():
                if isinstance(text := table.get(key), str):
                    table[key] = _named(read, text, of + key)
            for key in OPTION_TABLES:
                if key in table:
                    table[key] = _flags(table[key], of + key)
            if table is content and "paths" in table:
                table["paths"] = _places(table["paths"])
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    return build_config(Profile, content, where)


def _places(table: Any) -> tuple[str, ...]:
    """Folders as "here=there" of a table that has those of the nodes by those of the login node.

    Raises:
        ConfigError: one is no absolute path of plain letters, or would be found again in what it becomes.
    """
    if not isinstance(table, Mapping):
        raise ConfigError('paths must be a table of folders, such as [paths] and "/home/ann" = "/cluster/home/ann".')
    for here, there in table.items():
        for path in (here, there):
            if not (isinstance(path, str) and _PLACE.fullmatch(path)):
                raise ConfigError(
                    f"paths: {path!r} must be an absolute path of letters, digits and ._+@-, without a / at its end."
                )
        # A job that submits jobs sees the folder as it is there.
        if any(there == before or there.startswith(f"{before}/") for before in table):
            raise ConfigError(f"paths: {there} lies in a folder that is in the table itself, and would change again.")
    return tuple(f"{here}={there}" for here, there in table.items())


def _named(read: Callable[[str], Any], text: str, key: str) -> Any:
    try:
        return read(text)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None


def _flags(table: Any, where: str) -> tuple[str, ...]:
    """Options as "name=value", or "name" alone, of a table that has them by name; those of false are left out.

    Raises:
        ConfigError: it is no such table, or has an option that hpcseg sets itself.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f'{where} must be a table of options, such as [{where}] and reservation = "beamtime".')
    flags = []
    for name, value in table.items():
        if not _OPTION.fullmatch(name) or len(name) < 2:
            raise ConfigError(f"{where}: {name!r} must be the long name of an option, without its dashes.")
        if name in _OWN_KEYS:
            raise ConfigError(f"{where}: {name} has a key of its own in a profile: {_OWN_KEYS[name]}.")
        if name == "clusters":
            raise ConfigError(
                f"{where}: where sbatch alone is told of {name}, nothing finds the jobs. Leave it out, and `export "
                f"SLURM_CLUSTERS={value}`, by which all of Slurm's commands go."
            )
        if name in _OURS:
            raise ConfigError(f"{where}: {name} is for hpcseg to set, which needs it for its own. Leave it out.")
        if not isinstance(value, str | int | float):
            raise ConfigError(f"{where}: {name} must be a text, a number, or true.")
        if value is not False:
            flags.append(name if value is True else f"{name}={value}")
    return tuple(flags)


def resolve(needs: NeedsConfig, profile: Profile, options: Profile) -> Resources:
    """Decide every resource: the command line's wish before the profile's before the job's needs.

    Raises:
        ConfigError: a text has a control character, or memory is to grow that is not asked for so.
    """
    decided: dict[str, Any] = {
        "gpus_per_node": needs.gpus,
        "nodes": needs.nodes,
        "cpus_per_task": needs.cpus_per_task,
        "memory_gib": needs.memory_gib,
        "minutes": needs.minutes,
    }
    for wishes in (profile, options):
        for setting in dataclasses.fields(Profile):
            if (wish := getattr(wishes, setting.name)) is not None:
                decided[_RESOURCES.get(setting.name, setting.name)] = wish
    decided.setdefault("ranks_per_node", max(1, decided["gpus_per_node"]))
    if not decided["gpus_per_node"]:
        decided |= {table: without_gpus(decided.get(table, ())) for table in OPTION_TABLES}
    elif options.gpus_per_node is not None:
        _refuse_other_gpus(options.gpus_per_node, decided.get("sbatch", ()))
    resources = Resources(**decided)
    if options.mem is not None:
        resources = with_memory(resources, options.mem)
    if resources.max_memory_gib and any(flag.partition("=")[0] in MEMORY_OPTIONS for flag in resources.sbatch):
        raise ConfigError(
            "max_mem is of mem, in the place of which sbatch gets mem-per-cpu or mem-per-gpu. Choose one."
        )
    return resources
