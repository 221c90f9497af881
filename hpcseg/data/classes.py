"""Classes of labels: what they are called, and the index of pixels that have none. Knows no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hpcseg.errors import ConfigError

IGNORED = 255
"""Class index of a pixel that has no class, such as one outside of the field of view: it is in no loss and no count."""
MOST_CLASSES = 255
"""Indices 0 to 254."""


def parse_names(text: str) -> dict[int, str]:
    """Names of classes by their value in the labels.

    Args:
        text: as "0=pore,128=matrix,255=grain".

    Raises:
        ConfigError: it says no such thing, or one value or name twice.
    """
    names: dict[int, str] = {}
    for part in text.split(","):
        value, equals, name = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value.isdecimal():
            raise ConfigError(
                f'--classes is "{text}", but it must be VALUE=NAME, several joined by commas, as "0=pore,255=grain".'
            )
        if int(value) in names or name in names.values():
            raise ConfigError(f'--classes is "{text}", which has {value} or "{name}" twice. Give each value one name.')
        names[int(value)] = name
    return names


def names_of(values: Sequence[int], names: Mapping[int, str]) -> tuple[str, ...]:
    """What each class is called: its name, or the value in the labels where it has none.

    Raises:
        ConfigError: a name is of a value that no label has.
    """
    strays = sorted(set(names) - set(values))
    if strays:
        there = ", ".join(map(str, values))
        raise ConfigError(f"--classes names {', '.join(map(str, strays))}, but the labels have {there}.")
    return tuple(names.get(value, str(value)) for value in values)


def with_values(values: Sequence[int], names: Sequence[str]) -> list[str]:
    """Each class as a summary has it: its name with its label value, or the value alone."""
    return [name if name == str(value) else f"{name} ({value})" for value, name in zip(values, names, strict=True)]


def outside(image: np.ndarray) -> np.ndarray | None:
    """(H, W) bool, the pixels of an image that have no grey value (NaN); None where all have one."""
    if image.dtype.kind != "f":
        return None
    missing = np.isnan(image)
    return missing if missing.any() else None
