"""What the values of labels mean: which are one class, what it is called, and which are none. Knows no packed file."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.errors import ConfigError

IGNORED = 255
"""Class index of a pixel that has no class, such as one outside of the field of view: it is in no loss and no count."""
MOST_CLASSES = 255
"""Indices 0 to 254."""
LARGEST_LABEL = int(np.iinfo(np.int64).max)
"""Class values are kept as int64."""
_RUN = re.compile(r"(-?\d+)(?:-(-?\d+))?")

Run = tuple[int, int]
"""Label values from the first to the last of them."""


@dataclass(frozen=True)
class ClassMap:
    """What a user says of label values; values of no class and not ignored are strays."""

    classes: Mapping[str, tuple[Run, ...]] | None = None
    """The values of each class by its name; None: every value is a class, called by its value."""
    ignored: tuple[int, ...] = ()
    """Ascending, values of pixels without a class."""


@dataclass(frozen=True)
class Classes:
    """The classes of a set of labels, C of them, ascending by the value that stands for each."""

    runs: tuple[tuple[Run, ...], ...]
    """The label values of each, ascending; the first stands for all."""
    names: tuple[str, ...]
    ignored: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def values(self) -> tuple[int, ...]:
        """The label value that stands for each class."""
        return tuple(runs[0][0] for runs in self.runs)

    def indices(self, label: np.ndarray, outside: np.ndarray | None = None) -> np.ndarray | None:
        """The class index of each pixel, uint8, `IGNORED` where it has none; None where a value is a stray.

        Args:
            label: (H, W) whole numbers.
            outside: (H, W) bool, pixels without a grey value, which have no class whatever their label; None: none is.
        """
        found, known = np.zeros(label.shape, dtype=np.uint8), 0
        # A pass per run is quicker than a search per pixel for the few classes that labels have.
        marked = [(index, run) for index, runs in enumerate(self.runs) for run in runs]
        for index, run in [*marked, *((IGNORED, (value, value)) for value in self.ignored)]:
            here = _within(label, run) if outside is None else _within(label, run) & ~outside
            known += int(np.count_nonzero(here))
            found += here.view(np.uint8) * np.uint8(index)
        if outside is not None:
            known += int(np.count_nonzero(outside))
            found[outside] = IGNORED
        return found if known == label.size else None


def value_table(values: Sequence[int], ignored: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """(256,) label values by class index; of pixels without a class the first ignored one that the type has, else 0."""
    ends = np.iinfo(dtype)
    table = np.zeros(IGNORED + 1, dtype=dtype)
    table[: len(values)] = values
    table[IGNORED] = next((value for value in ignored if ends.min <= value <= ends.max), 0)
    return table


def one_class_each(values: Iterable[int], ignored: Sequence[int] = ()) -> Classes:
    """A class of each value, called by it."""
    ascending = sorted(set(values) - set(ignored))
    return Classes(tuple(((value, value),) for value in ascending), tuple(map(str, ascending)), tuple(ignored))


def named_classes(classes: Mapping[str, tuple[Run, ...]], ignored: Sequence[int] = ()) -> Classes:
    """The classes of a map, ascending."""
    ascending = sorted(classes.items(), key=lambda item: item[1])
    return Classes(tuple(runs for _, runs in ascending), tuple(name for name, _ in ascending), tuple(ignored))


def read_class_map(said: str | Mapping[str, Any] | None, ignored: Iterable[int] = ()) -> ClassMap:
    """What --classes and --ignore say together.

    Args:
        said: as "0=pore,1-9=grain,12=grain"; or a TOML file whose lines are NAME = VALUE, "FIRST-LAST", or a list of
            both; or what such a file holds, as {"pore": 0, "grain": ["1-9", 12]}. None: every value is a class.
        ignored: label values of pixels without a class.

    Raises:
        ConfigError: it says no such thing, or one value twice.
    """
    left_out = tuple(sorted(set(ignored)))
    if said is None:
        return ClassMap(None, left_out)
    if isinstance(said, Mapping):
        found = _in_table(said, "--classes")
    else:
        found = _in_file(Path(said)) if said.endswith(".toml") else _in_text(said)
    classes: dict[str, list[Run]] = {}
    for name, run in found:
        classes.setdefault(name, []).append(run)
    runs = sorted((run, name) for name, of in classes.items() for run in of)
    for (before, one), (after, other) in itertools.pairwise(runs):
        if after[0] <= before[1]:
            raise ConfigError(f"--classes has {after[0]} twice, as {one} and as {other}. Give each value one name.")
    if twice := [value for value in left_out if any(first <= value <= last for (first, last), _ in runs)]:
        raise ConfigError(f"{twice[0]} is a class in --classes, and --ignore leaves it out. Say one of them.")
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise ConfigError(f"--classes has {len(classes)} classes, and it takes 2 to {MOST_CLASSES}.")
    return ClassMap({name: tuple(sorted(of)) for name, of in classes.items()}, left_out)


def _in_text(text: str) -> Iterator[tuple[str, Run]]:
    for part in text.split(","):
        values, equals, name = (piece.strip() for piece in part.partition("="))
        run = _as_run(values)
        if not equals or not name or run is None:
            raise ConfigError(
                f'--classes is "{text}", but it must be VALUE=NAME or FIRST-LAST=NAME, several joined by commas, as '
                '"0=pore,1-9=grain", or a TOML file.'
            )
        yield name, run


def _in_file(path: Path) -> Iterator[tuple[str, Run]]:
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:  # TOML's own error is one of these, as is text that is no UTF-8
        raise ConfigError(f"--classes: {path} cannot be read as TOML ({error}).") from None
    return _in_table(content, f"--classes: in {path}")


def _in_table(content: Mapping[str, Any], where: str) -> Iterator[tuple[str, Run]]:
    for name, values in content.items():
        for value in values if isinstance(values, list) else [values]:
            run = _as_run(value)
            if run is None:
                raise ConfigError(
                    f"{where} {name} is {value!r}, but it must be a label value, FIRST-LAST in quotes, or a list of "
                    'both, as grain = [12, "1-9"].'
                )
            yield name, run


def _as_run(value: Any) -> Run | None:
    if type(value) is int:
        return (value, value) if abs(value) <= LARGEST_LABEL else None
    found = _RUN.fullmatch(value.replace(" ", "")) if isinstance(value, str) else None
    if found is None:
        return None
    first, last = int(found[1]), int(found[2] or found[1])
    return (first, last) if -LARGEST_LABEL <= first <= last <= LARGEST_LABEL else None


def _within(label: np.ndarray, run: Run) -> np.ndarray:
    first, last = run
    if first == last:
        same: np.ndarray = label == first
        return same
    ends = np.iinfo(label.dtype)
    if first > ends.max or last < ends.min:
        return np.zeros(label.shape, dtype=bool)
    within: np.ndarray = (label >= max(first, ends.min)) & (label <= min(last, ends.max))
    return within


def with_values(values: Sequence[int], names: Sequence[str]) -> list[str]:
    """Each class as a summary has it: its name with its label value, or the value alone."""
    return [name if name == str(value) else f"{name} ({value})" for value, name in zip(values, names, strict=True)]


def outside(image: np.ndarray) -> np.ndarray | None:
    """(H, W) bool, the pixels of an image that have no grey value (NaN); None where all have one."""
    if image.dtype.kind != "f":
        return None
    missing = np.isnan(image)
    return missing if missing.any() else None
