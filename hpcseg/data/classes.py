"""What the values of labels mean: which are one class, what it is called, and which are none. Knows no packed file."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpcseg.errors import ConfigError
from hpcseg.jobfile import read_toml
from hpcseg.text import counted

IGNORED = 255
"""Class index of a pixel that has no class, such as one outside of the field of view: it is in no loss and no count."""
MOST_CLASSES = 255
"""Indices 0 to 254."""
SMALLEST_LABEL, LARGEST_LABEL = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)
"""Class values are kept as int64."""
_FORM = (
    'Say VALUE=NAME, separated by commas: --classes "0=pore,1-9=grain,12=grain"; or name a TOML file with pore = 0 and '
    'grain = ["1-9", 12].'
)
_RUN = re.compile(r"\s*(-?\d+)\s*(?:-\s*(-?\d+)\s*)?")

Run = tuple[int, int]
"""Label values from the first to the last of them."""


def check_weights(settings: Iterable[str], values: Sequence[int]) -> None:
    """See that `train.class_weights` has a number for each class of the data, where it has any.

    Args:
        settings: of the cells.
        values: of the classes in the label images.

    Raises:
        ConfigError: one has more or fewer.
    """
    for setting in settings:
        given = setting.split("+")
        if setting not in ("none", "frequency") and len(given) != len(values):
            raise ConfigError(
                f'train.class_weights is "{setting}", {counted(len(given), "number")}, but the classes of the data are '
                f"{', '.join(map(str, values))}: give one for each, in this order."
            )


@dataclass(frozen=True)
class Classes:
    """The classes of a set of labels, C of them, ascending by the value that stands for each."""

    runs: tuple[tuple[Run, ...], ...] = ()
    """The label values of each, ascending; the first stands for all. Other values are strays, unless they are ignored;
    of no classes at all (the default) every value is one: `of_each`."""
    names: tuple[str, ...] = ()
    ignored: tuple[int, ...] = ()
    """Ascending, values of pixels without a class."""

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def values(self) -> tuple[int, ...]:
        """The label value that stands for each class."""
        return tuple(runs[0][0] for runs in self.runs)

    def of_each(self, values: Iterable[int]) -> Classes:
        """A class of each value that is not ignored, called by it; of classes that are known these themselves."""
        if self.runs:
            return self
        found = sorted(set(values) - set(self.ignored))
        return replace(self, runs=tuple(((value, value),) for value in found), names=tuple(map(str, found)))

    def within(self, dtype: np.dtype) -> Classes:
        """The same of what labels of a type can hold; raises ConfigError where that is nothing of a class."""
        ends, kept = np.iinfo(dtype), []
        for value, name, runs in zip(self.values, self.names, self.runs, strict=True):
            clipped = ((max(first, int(ends.min)), min(last, int(ends.max))) for first, last in runs)
            kept.append(tuple(run for run in clipped if run[0] <= run[1]))
            if not kept[-1]:
                raise no_pixel_of(value, name)
        ascending = sorted(zip(kept, self.names, strict=True))  # which clipping may have changed
        return replace(self, runs=tuple(runs for runs, _ in ascending), names=tuple(name for _, name in ascending))

    def indices(self, label: np.ndarray, outside: np.ndarray | None = None) -> np.ndarray | None:
        """The class index of each pixel, uint8, `IGNORED` where it has none; None where a value is a stray.

        Args:
            label: (H, W) whole numbers.
            outside: (H, W) bool, pixels without a grey value, which have no class whatever their label; None: none is.
        """
        found, known = np.zeros(label.shape, dtype=np.uint8), 0
        # A pass per run is quicker than a search per pixel for the few classes that labels have.
        marked = [(index, *run) for index, runs in enumerate(self.runs) for run in runs]
        for index, first, last in [*marked, *((IGNORED, value, value) for value in self.ignored)]:
            here = label == first if first == last else (label >= first) & (label <= last)
            if outside is not None:
                here &= ~outside
            known += int(np.count_nonzero(here))
            if index:  # 0 is there already
                found += here.view(np.uint8) * np.uint8(index)
        if outside is not None:
            known += int(np.count_nonzero(outside))
            found[outside] = IGNORED
        return found if known == label.size else None


def no_pixel_of(value: int, name: str) -> ConfigError:
    """What to raise where labels have no pixel of a class."""
    return ConfigError(
        f"--classes has {with_values([value], [name])[0]}, but no label has a pixel of it. Leave it out."
    )


def value_table(values: Sequence[int], ignored: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """(256,) label values by class index; of pixels without a class the first ignored one that the type has, else 0."""
    ends = np.iinfo(dtype)
    table = np.zeros(IGNORED + 1, dtype=dtype)
    table[: len(values)] = values
    table[IGNORED] = next((value for value in ignored if ends.min <= value <= ends.max), 0)
    return table


def read_class_map(said: str | Mapping[str, Any] | None, ignored: Iterable[int] = ()) -> Classes:
    """What --classes and --ignore say together.

    Args:
        said: as "0=pore,1-9=grain,12=grain"; or a TOML file whose lines are NAME = VALUE, "FIRST-LAST", or a list of
            both; or what such a file holds, as {"pore": 0, "grain": ["1-9", 12]}. None: every value is a class.
        ignored: label values of pixels without a class.

    Raises:
        ConfigError: it says no such thing, or one value twice.
    """
    without = tuple(sorted(set(ignored)))
    if beyond := [value for value in without if not SMALLEST_LABEL <= value <= LARGEST_LABEL]:
        raise ConfigError(
            f"--ignore is {beyond[0]}, and label values are {LARGEST_LABEL} at most. Save the labels with smaller ones."
        )
    if said is None:
        return Classes(ignored=without)
    classes: dict[str, tuple[Run, ...]] = {}
    for name, values in (_as_table(said) if isinstance(said, str) else said).items():
        runs = [_as_run(value) for value in (values if isinstance(values, list | tuple) else [values])]
        found = [run for run in runs if run is not None]
        if not name or not found or len(found) < len(runs):
            raise ConfigError(
                f'--classes: "{name}" is {values!r} in {said}, but each class has a name, and label values as 12 or '
                f'"1-9". {_FORM}'
            )
        classes[name] = tuple(sorted(found))
    runs_and_names = [(run, f'"{name}"') for name, runs in classes.items() for run in runs]
    meant = sorted([*runs_and_names, *(((value, value), "--ignore") for value in without)])
    for ((_, last), one), ((first, _), other) in itertools.pairwise(meant):
        if first <= last:
            raise ConfigError(f"--classes has {first} twice, as {one} and as {other}. Give each value one meaning.")
    if not 2 <= len(classes) <= MOST_CLASSES:
        number = "1 class" if len(classes) == 1 else f"{len(classes)} classes"
        raise ConfigError(f"--classes has {number}, and it takes 2 to {MOST_CLASSES}. {_FORM}")
    ascending = sorted(classes.items(), key=lambda item: item[1])
    return Classes(tuple(runs for _, runs in ascending), tuple(name for name, _ in ascending), without)


def _as_table(said: str) -> dict[str, Any]:
    """Label values by the name of their class, of a TOML file or a text; raises ConfigError where it is neither."""
    if said.endswith(".toml"):
        return read_toml(Path(os.path.expanduser(said)))
    table: dict[str, list[str]] = {}
    for part in said.split(","):
        values, _, name = map(str.strip, part.partition("="))
        if not name or _as_run(values) is None:
            raise ConfigError(f'--classes has "{part}", which is not VALUE=NAME. {_FORM}')
        table.setdefault(name, []).append(values)
    return table


def _as_run(value: Any) -> Run | None:
    found = _RUN.fullmatch(str(value))
    if found is None or not isinstance(value, int | str | np.integer):
        return None
    first, last = int(found[1]), int(found[2] or found[1])
    return (first, last) if SMALLEST_LABEL <= first <= last <= LARGEST_LABEL else None


def with_values(values: Sequence[int], names: Sequence[str]) -> list[str]:
    """Each class as a summary has it: its name with its label value, or the value alone."""
    return [name if name == str(value) else f"{name} ({value})" for value, name in zip(values, names, strict=True)]


def outside(image: np.ndarray) -> np.ndarray | None:
    """(H, W) bool, the pixels of an image that have no grey value (NaN); None where all have one."""
    if image.dtype.kind != "f":
        return None
    missing = np.isnan(image)
    return missing if missing.any() else None
