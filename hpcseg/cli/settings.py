"""The verb `settings`: every setting with its default, its unit and its meaning, from the source that defines it."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from hpcseg.cli import console
from hpcseg.errors import ConfigError
from hpcseg.jobfile import as_toml
from hpcseg.runs.finding import OWN_JOB


@dataclass(frozen=True)
class Setting:
    """One key of a job file or of a profile."""

    section: str
    key: str
    kind: str
    """What its value is, in words."""
    default: Any
    meaning: str
    """The text below the field in the source, with the unit, in one line."""

    @property
    def name(self) -> str:
        """As --set and messages have it."""
        return f"{self.section}.{self.key}"

    @property
    def default_text(self) -> str:
        """The default as TOML has it; empty where there is none."""
        return "" if self.default is None else as_toml(self.default)


def settings(
    which: Annotated[
        str | None,
        typer.Argument(
            metavar="[SECTION|KEY]",
            help="A section (data, train, evaluate, needs, report, profile), or a key such as train.width or width.",
            show_default="all",
        ),
    ] = None,
    job: Annotated[str, typer.Option(help="The job, or job file, whose values are shown too.")] = OWN_JOB,
) -> None:
    """Show every setting of job files and profiles: default, unit, meaning, and what a job has in its place."""
    of_job = _of_job(job)
    for setting in _chosen(which):
        default = f" = {setting.default_text}" if setting.default_text else ""
        console.stdout.print(f"{setting.name}{default}", style="bold", end="")
        values = of_job.get(setting.name, "")
        other = f"; in {job} {values}" if values not in ("", setting.default_text) else ""
        console.stdout.print(f"  ({setting.kind}{other})")
        console.stdout.print(console.wrapped(setting.meaning, indent=4))


def all_settings() -> list[Setting]:
    """Those of job files, section by section, and those of a profile."""
    from hpcseg.cluster.profile import Profile, ReportJob
    from hpcseg.config import DataConfig, EvaluateConfig, NeedsConfig, ReportConfig, TrainConfig

    sections = {
        "data": DataConfig,
        "train": TrainConfig,
        "evaluate": EvaluateConfig,
        "needs": NeedsConfig,
        "report": ReportConfig,
        "profile": Profile,
        "profile.report": ReportJob,
    }
    return [setting for section, cls in sections.items() for setting in _of_class(section, cls)]


def _chosen(which: str | None) -> list[Setting]:
    """The settings of that section or key, else those whose key has this in it; raises ConfigError for none."""
    known = all_settings()
    if which is None:
        return known
    found = [
        setting
        for setting in known
        if which in (setting.section, setting.section.partition(".")[0], setting.key, setting.name)
    ]
    if not found:
        found = [setting for setting in known if which in setting.key]
    if not found:
        close = difflib.get_close_matches(which, [setting.key for setting in known], n=1)
        hint = f' Did you mean "{close[0]}"?' if close else ""
        sections = ", ".join(dict.fromkeys(setting.section for setting in known))
        raise ConfigError(f'There is no setting "{which}".{hint} Sections are {sections}; `hpcseg settings` shows all.')
    return found


def _of_job(job: str) -> dict[str, str]:
    """The values of every setting of a job, by its name; raises ConfigError where there is no such job."""
    from hpcseg.jobfile import find_shipped, load_job
    from hpcseg.records.groups import flat

    described = load_job(find_shipped("job", job))
    cells = [flat(cell) for cell in described.cells]
    needs, report = dataclasses.asdict(described.needs), dataclasses.asdict(described.report)
    return {
        **{name: ", ".join(dict.fromkeys(as_toml(cell[name]) for cell in cells)) for name in cells[0]},
        **{f"needs.{key}": as_toml(value) for key, value in needs.items()},
        **{f"report.{key}": as_toml(value) for key, value in report.items()},
    }


def _of_class(section: str, cls: type[Any]) -> Iterator[Setting]:
    from hpcseg.cluster.profile import OPTION_TABLES

    meanings, hints = _meanings(cls), typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        kind = "table of options" if item.name in OPTION_TABLES else _kind(hints[item.name])
        yield Setting(section, item.name, kind, item.default, meanings[item.name])


def _meanings(cls: type[Any]) -> dict[str, str]:
    """The text that stands below each field of a dataclass in its source."""
    tree = ast.parse(inspect.getsource(sys.modules[cls.__module__]))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls.__name__)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def _kind(hint: Any) -> str:
    from hpcseg.config import OrAuto
    from hpcseg.sigma import Sigma

    if hint == Sigma:
        return 'number of counts, or a share such as "42 %"'
    if hint == OrAuto:
        return 'whole number, or "auto"'
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        return "list of texts"
    if dataclasses.is_dataclass(hint):
        return "table"
    return {int: "whole number", float: "number", bool: "true or false", str: "text"}[hint]
