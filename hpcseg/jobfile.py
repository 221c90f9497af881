"""Job files (TOML) in, the cells that they describe out.

A job file holds shared settings in the tables `[data]`, `[train]` and `[evaluate]`, and one or more `[[grid]]`
tables. In a grid a list is an axis and a scalar a fixed setting; each grid is the product of its axes, and the
job is the union of its grids. A grid's `repetitions` is one axis for two settings: another training, of its own seed,
on another position of the split.
"""

from __future__ import annotations

import itertools
import json
import math
import os.path
import reprlib
import shlex
import stat
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcseg.config import CellConfig, DataConfig, EvaluateConfig, NeedsConfig, ReportConfig, TrainConfig
from hpcseg.errors import ConfigError
from hpcseg.tables import build_config, convert, refuse_unknown
from hpcseg.text import refuse_controls, shortened

_MOST_CELLS = 10_000
_REPETITIONS = "repetitions"
_REPEATED = (("train", "seed"), ("data", "split_seed"))
_MOST_BYTES = 1_000_000
_MORE = (
    "More noise levels go into it with evaluate.other_sigmas, sweep_max, other_noise and mixed_fraction; for another "
    "one beside it copy the run folder, then `hpcseg grid --run COPY --set evaluate.SETTING=VALUE`."
)
# Of a line: of a key of so many parts tomllib makes a table each, in quadratic time.
_MOST_DOTS = 500

# Section and key of the settings of an axis, and the values that they take together.
_Axis = tuple[tuple[tuple[str, str], ...], list[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    """A whole job file: its cells in order, what they need, and what is reported."""

    name: str
    title: str
    cells: tuple[CellConfig, ...]
    needs: NeedsConfig
    report: ReportConfig


def find_shipped(kind: str, name: str) -> Path:
    """The file of a "job", "profile" or "template": one that ships with hpcseg by its name, or another by its path.

    Raises:
        ConfigError: there is none; the message lists the names that exist.
    """
    suffix = ".sh" if kind == "template" else ".toml"
    known = {path.stem: path for path in shipped_folder(f"{kind}s").glob(f"*{suffix}")}
    path = known.get(name) or Path(os.path.expanduser(name))
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long or a folder may not be entered
        raise ConfigError(
            f'There is no {kind} "{name}". Shipped {kind}s are {", ".join(sorted(known))}; give the path of a {suffix} '
            "file for your own."
        )
    return path


def shipped_folder(name: str) -> Path:
    """A data folder that ships with hpcseg ("jobs", "profiles", "templates"), from a wheel or from a checkout."""
    package = Path(__file__).parent
    in_checkout = {"jobs": "jobs", "profiles": "slurm/profiles", "templates": "slurm/templates"}[name]
    installed = package / name
    return installed if installed.is_dir() else package.parent / in_checkout


def load_job(path: Path, overrides: Sequence[str] = ()) -> JobConfig:
    """Read and check a job file.

    Args:
        path: of a TOML file.
        overrides: "SECTION.KEY=VALUE" each, with a TOML value, or a text without quotes. It replaces what the file has
            in its shared settings and in every grid; a list becomes an axis.

    Raises:
        ConfigError: a control character in its name, not TOML, an unknown key, a wrong type, a value out of range, too
            many cells, or two equal ones.
    """
    if path.stem in (".", ".."):
        raise ConfigError(f'{path}: a run is called like its job file, and cannot be "{path.stem}". Rename the file.')
    refuse_controls(path.stem, "The name of a job file, which its jobs in Slurm get,")
    document = read_toml(path)
    sections = ("data", "train", "evaluate")
    for override in overrides:
        _apply(document, override, (*sections, "needs"))
    # An error is in the file, or in what was put into it.
    where = str(path) + "".join(f", --set {shortened(override)}" for override in overrides)
    refuse_unknown(document, ("title", *sections, "needs", "report", "grid"), where)
    shared = {name: document.get(name, {}) for name in sections}
    for name, settings in shared.items():
        if not isinstance(settings, dict):
            raise ConfigError(f"{where}: {name} must be a table of settings, found {reprlib.repr(settings)}.")
        for key, value in settings.items():
            if isinstance(value, list) and name == "evaluate":
                raise ConfigError(f"{where}: evaluate.{key} is a list, and a trained model has one evaluation. {_MORE}")
            if isinstance(value, list):
                raise ConfigError(
                    f"{where}: {name}.{key} is a list, and only a [[grid]] may have one. Write {name}.{key} = [...] "
                    "under [[grid]]: each value is then a cell of its own."
                )
    grids = document.get("grid", {})
    grids = [grids] if isinstance(grids, dict) else grids
    if not isinstance(grids, list) or not grids:
        raise ConfigError(f"{where}: grid must be a table, or several as [[grid]], found {reprlib.repr(grids)}.")
    axes = [_axes(shared, grid, f"{where}, grid {number}") for number, grid in enumerate(grids, start=1)]
    count = sum(math.prod(len(values) for _, values in grid) for grid in axes)
    if count > _MOST_CELLS:
        raise ConfigError(f"{where}: the grids have {count} cells, and a job may have {_MOST_CELLS}. Split the job.")
    cells: list[CellConfig] = []
    described: dict[tuple[DataConfig, TrainConfig], EvaluateConfig] = {}
    for number, grid in enumerate(axes, start=1):
        for settings in _expand(shared, grid):
            cell = build_config(CellConfig, settings, f"{where}, grid {number}")
            if described.setdefault((cell.data, cell.train), cell.evaluate) != cell.evaluate:
                raise ConfigError(
                    f"{where}: the cell {cell.name()} would have two evaluations, and a trained model has one. {_MORE}"
                )
            if len(described) == len(cells):
                raise ConfigError(f"{where}: the cell {cell.name()} is described twice; each may appear once.")
            cells.append(cell)
    return JobConfig(
        name=path.stem,
        title=convert(str, document.get("title", path.stem), f"{where}: title"),
        cells=tuple(cells),
        needs=build_config(NeedsConfig, document.get("needs", {}), f"{where}, [needs]"),
        report=build_config(ReportConfig, document.get("report", {}), f"{where}, [report]"),
    )


def as_toml(value: Any) -> str:
    """A setting's value as it stands in a TOML file; numbers of numpy are numbers."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_toml, value))}]"
    return json.dumps(value, ensure_ascii=False, default=lambda number: number.item())


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Values by "SECTION.KEY" as the overrides of `load_job`; raises ConfigError for one that TOML has not."""
    if not isinstance(settings, Mapping):
        raise ConfigError(f'The settings are {settings!r}; give them by their names, such as {{"train.width": 16}}.')
    overrides = []
    for name, value in settings.items():
        try:
            overrides.append(f"{name}={as_toml(value)}")
        except (AttributeError, TypeError, ValueError):
            raise ConfigError(f"The setting {name} is {value!r}; give a number, a text, True or False.") from None
    return overrides


def _apply(document: dict[str, Any], override: str, sections: tuple[str, ...]) -> None:
    """Put one override into a job file's content, wherever it stands there."""
    name, equals, text = override.partition("=")
    section, _, key = name.strip().partition(".")
    if not equals or section not in sections or not key:
        raise ConfigError(
            f'--set is "{override}", but it must be SECTION.KEY=VALUE with a section of {", ".join(sections)}, such as '
            "train.width=16."
        )
    value = _value(text, override)
    if isinstance(value, str) and "," in value and section != "needs":
        several = f"{name}={as_toml([_value(part, override) for part in value.split(',')])}"
        raise ConfigError(
            f"--set {override}: no value has a comma. Several, each a cell of its own: --set {shlex.quote(several)}"
        )
    grids = document.setdefault("grid", {})
    for table in [document] if section == "needs" else grids if isinstance(grids, list) else [grids]:
        # What is no table is refused later, in words that name the file.
        if isinstance(table, dict) and isinstance(table.setdefault(section, {}), dict):
            table[section][key] = value
            if (section, key) in _REPEATED:
                table.pop(_REPETITIONS, None)


def _value(text: str, override: str) -> Any:
    """What TOML makes of a text, or the text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
    except (ValueError, RecursionError) as error:  # of Python, for numbers and nesting
        raise ConfigError(f"--set {shortened(override)}: {error}.") from None


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary; raises ConfigError naming the file and the line that is wrong."""
    try:
        there = path.stat()
        if not stat.S_ISREG(there.st_mode):  # reading a pipe would wait, and a device may never end
            raise ConfigError(f"{path} is no regular file. Give the path of a TOML file.")
        if there.st_size > _MOST_BYTES:
            raise ConfigError(f"{path} has {there.st_size:,} bytes. A job or a profile has at most {_MOST_BYTES:,}.")
        text = path.read_text(encoding="utf-8-sig")
        if max((line.count(".") for line in text.splitlines() if not line.startswith("#")), default=0) > _MOST_DOTS:
            raise ConfigError(f"{path} has a line of more than {_MOST_DOTS} dots, which no setting has.")
        return tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:  # of tomllib, of UTF-8, and of Python for numbers and nesting
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None


def _axes(shared: Mapping[str, Any], grid: Any, where: str) -> list[_Axis]:
    """The axes of one grid; a scalar is an axis of one value."""
    if not isinstance(grid, dict):
        raise ConfigError(f"{where}: a grid is a table of settings, not {reprlib.repr(grid)}.")
    refuse_unknown(grid, (*shared, _REPETITIONS), where)
    axes = list[_Axis]()
    for section, settings in grid.items():
        if section == _REPETITIONS:
            axes.append((_REPEATED, _values(settings, f"{where}: {_REPETITIONS}")))
            continue
        if not isinstance(settings, dict):
            raise ConfigError(f"{where}: {section} must be a table, as in {section}.SETTING = [values].")
        for key, values in settings.items():
            if _REPETITIONS in grid and (section, key) in _REPEATED:
                raise ConfigError(f"{where}: {_REPETITIONS} are values of {section}.{key}, which is given as well.")
            axes.append((((section, key),), _values(values, f"{where}: the axis {section}.{key}")))
    return axes


def _values(values: Any, what: str) -> list[Any]:
    found = list(values) if isinstance(values, list) else [values]
    if not found:
        raise ConfigError(f"{what} is empty.")
    return found


def _expand(shared: Mapping[str, Any], axes: list[_Axis]) -> Iterator[dict[str, dict[str, Any]]]:
    """The product of the axes of one grid over the shared settings."""
    for point in itertools.product(*(values for _, values in axes)):
        cell = {section: dict(settings) for section, settings in shared.items()}
        for (settings, _), value in zip(axes, point, strict=True):
            for section, key in settings:
                cell[section][key] = value
        yield cell
