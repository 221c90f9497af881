"""What a job needs, a site's profile and the command line in; the resources of one job out.

The job file says what a cell needs, a profile how a site spells it, and an option on the command line has the last
word.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcseg.cluster.units import gibibytes, minutes
from hpcseg.config import NeedsConfig, build_config
from hpcseg.errors import ConfigError
from hpcseg.jobfile import read_toml, shipped_folder
from hpcseg.text import refuse_controls

# What users write as Slurm does has its unit in its name once it is decided.
_RESOURCES = {"mem": "memory_gib", "time": "minutes"}
GPU_SYNTAXES = ("gpus-per-node", "gres", "gpus-per-task", "none")


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
    setup: tuple[str, ...] | None = None
    """Shell lines before the job's command, such as module loads."""
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
        for name in ("ranks_per_node", "nodes", "cpus_per_task", "time", *limits, "mem"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} is {value}, but it must be above 0.")
        if self.gpus_per_node is not None and self.gpus_per_node < 0:
            raise ConfigError(f"gpus_per_node is {self.gpus_per_node}, but it must be 0 or more.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """The resources of one job, decided."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    exclude: str | None
    gpu_syntax: str
    gpus_per_node: int
    ranks_per_node: int
    nodes: int
    cpus_per_task: int
    memory_gib: float
    minutes: int
    setup: tuple[str, ...]
    max_array_size: int | None
    throttle: int | None
    tries: int
    cells_per_job: int = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), str):
                refuse_controls(value, field.name)


def load_profile(name: str) -> Profile:
    """A profile by the name of a shipped one or the path of a TOML file.

    Raises:
        ConfigError: there is none, or it has an unknown key or a wrong value.
    """
    path = Path(name)
    if path.suffix != ".toml":
        known = {found.stem: found for found in shipped_folder("profiles").glob("*.toml")}
        if name not in known:
            raise ConfigError(
                f'There is no profile "{name}". Shipped profiles are {", ".join(sorted(known))}; give the path of a '
                ".toml file for your own."
            )
        path = known[name]
    content = read_toml(path)
    for key, read in (("time", minutes), ("mem", gibibytes)):
        if isinstance(text := content.get(key), str):
            try:
                content[key] = read(text)
            except ConfigError as error:
                raise ConfigError(f"{path}: {key}: {error}") from None
    profile: Profile = build_config(Profile, content, str(path))
    return profile


def resolve(needs: NeedsConfig, profile: Profile, options: Profile) -> Resources:
    """Decide every resource: the command line's wish before the profile's before the job's needs.

    Raises:
        ConfigError: a text has a control character.
    """
    decided: dict[str, Any] = {
        "gpu_syntax": "gpus-per-node",
        "gpus_per_node": needs.gpus,
        "nodes": needs.nodes,
        "cpus_per_task": needs.cpus_per_task,
        "memory_gib": needs.memory_gib,
        "minutes": needs.minutes,
        "setup": (),
        "tries": 3,
        "cells_per_job": 1,
    }
    for field in dataclasses.fields(Profile):
        name = _RESOURCES.get(field.name, field.name)
        decided.setdefault(name, None)
        for wishes in (profile, options):
            wish = getattr(wishes, field.name)
            decided[name] = decided[name] if wish is None else wish
    if decided["ranks_per_node"] is None:
        decided["ranks_per_node"] = max(1, decided["gpus_per_node"])
    return Resources(**decided)
