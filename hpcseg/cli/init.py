"""The verb `init`: a job file of one's own, with every setting and what it means."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hpcseg.cli import console
from hpcseg.cli.settings import Setting, all_settings
from hpcseg.errors import ConfigError
from hpcseg.jobfile import as_toml
from hpcseg.runs.finding import OWN_JOB
from hpcseg.text import counted

_WIDTH = 98
_GRID = """
# Each [[grid]] is a set of cells: a list is an axis, and every combination of the axes is one
# cell, so train.seed = [0, 1, 2] trains three models. A setting here replaces the one above. In
# place of train.seed, repetitions = [0, 1, 2] gives each model another position of the split too."""


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="The job file to write.")],
    job: Annotated[str, typer.Option(help="Name of a shipped job, or the path of a job file, to begin with.")] = (
        OWN_JOB
    ),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a job file to change: every setting with its meaning, and the same cells as the job that it begins with."""
    from hpcseg.files import replacing
    from hpcseg.jobfile import find_shipped, load_job, read_toml

    if file.suffix != ".toml":
        raise ConfigError(f"{file} must end in .toml, so that it is a job file to `hpcseg grid --job`.")
    if file.exists() and not force:
        raise ConfigError(f"{file} exists already. Replace it with --force, or write another file.")
    path = find_shipped("job", job)
    load_job(path)
    with replacing(file) as target:
        target.write("\n".join(_lines(read_toml(path), path.stem)).encode())
    cells = len(load_job(file).cells)
    console.stdout.print(f"wrote {file}: {counted(cells, 'cell')}, as job {job}")
    console.stdout.print(f"Next: hpcseg grid --job {shlex.quote(str(file))} --dry-run")


def _lines(document: Mapping[str, Any], job: str) -> Iterator[str]:
    yield f"# A job file, begun as job {job}. Every setting stands here with its meaning;"
    yield "# `hpcseg settings` prints the same, with the defaults."
    yield f"title = {as_toml(document.get('title', job))}"
    grids = document.get("grid", [])
    grids = grids if isinstance(grids, list) else [grids]
    known = [setting for setting in all_settings() if not setting.section.startswith("profile")]
    for section in dict.fromkeys(setting.section for setting in known):
        yield f"\n[{section}]"
        for setting in known:
            if setting.section == section:
                yield from _setting(setting, document.get(section, {}), grids)
    yield _GRID
    for grid in grids or [{}]:
        yield "[[grid]]"
        for name, values in grid.items():
            settings = (
                {f"{name}.{key}": value for key, value in values.items()}
                if isinstance(values, dict)
                else {name: values}
            )
            yield from (f"{setting} = {as_toml(value)}" for setting, value in settings.items())
        yield ""


def _setting(setting: Setting, shared: Mapping[str, Any], grids: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Its meaning as a comment, and its value; as a comment too where it says nothing, since each grid says it."""
    yield from textwrap.wrap(
        setting.meaning, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )
    value = shared.get(setting.key, setting.default)
    in_grids = bool(grids) and all(setting.key in grid.get(setting.section, {}) for grid in grids)
    # What a report has where nothing is said goes by the job's axes.
    unsaid = in_grids or (setting.section == "report" and setting.key not in shared)
    yield f"{'# ' if unsaid else ''}{setting.key} = {as_toml(value)}{'   # see [[grid]]' if in_grids else ''}"
