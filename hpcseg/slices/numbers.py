"""Names of files in, the numbers of their slices out: the one thing in the names that tells the slices apart."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcseg.errors import ConfigError
from hpcseg.slices.source import Faults

_MOST_DIGITS = 18  # of a 64-bit integer
_RUN = re.compile(r"(?:(?<![^\W_])-)?\d+")  # a minus behind a letter or a digit is a hyphen
_DECIMAL = re.compile(rf"{_RUN.pattern}(?:\.\d+)?")


@dataclass(frozen=True)
class Numbered:
    """Numbers of files, None where a fault says why there is none, and where in the names they are."""

    numbers: list[int | None]
    example: str = ""
    """Which of several digits were taken, for a note; empty where there was no choice."""


def number_names(
    names: Sequence[str], faults: Faults, *, pattern: str | None = None, known: Mapping[str, int] | None = None
) -> Numbered:
    """The number of each slice.

    By the pattern, if one is given; as others of the same names are known; or where the names differ. A number that all
    names share, as a date or the 16 of rec_0001_16bit, tells no slices apart. Where names differ in several, it is the
    one that counts in equal steps, the smallest if several do; z_9.2, z_10 and z_10.4 are 92, 100 and 104.

    Args:
        names: of files; their suffix does not count.
        faults: told what is wrong with which name.
        pattern: a regular expression, whose first group is the number.
        known: numbers of other files by their names without suffix, as of images where these are their labels.

    Raises:
        ConfigError: the pattern is none.
    """
    stems, known = [Path(name).stem for name in names], known or {}
    if pattern is not None:
        return Numbered(_by_pattern(names, stems, pattern, faults))
    if known and all(stem in known for stem in stems):
        return Numbered([known[stem] for stem in stems])
    if decimals := _decimals(stems, list(known)):
        texts, digits = decimals
        return Numbered(
            [_scaled(name, text, digits, faults) for name, text in zip(names, texts, strict=True)],
            _example(names, texts),
        )
    runs = [_RUN.findall(stem) for stem in stems]
    least = min((len(of) for of in runs if of), default=0)
    columns = [[of[-place] if of else None for of in runs] for place in range(least, 0, -1)]
    differing = [column for column in columns if len({text for text in column if text is not None}) > 1]
    if len(differing) < 2 or None in differing[0]:
        alike = columns[-_place(known, least)] if columns else [None] * len(names)
        column = differing[0] if differing else alike
        return Numbered(_whole(names, column, faults), _example(names, column) if len(columns) > 1 else "")
    steps = [_step(column) for column in differing]
    smallest = min((step for step in steps if step), default=0)
    counting = [column for column, step in zip(differing, steps, strict=True) if step and step == smallest]
    if len(counting) != 1:
        shown = " and ".join(str(column[0]) for column in differing)
        pattern = _pattern(stems[0], least - columns.index(differing[-1]))
        faults.add(
            f"the names differ in {len(differing)} numbers ({shown} in {names[0]}); say which is the slice's with "
            f"--number, a pattern round it such as --number '{pattern}'"
        )
        return Numbered([None] * len(names))
    return Numbered(_whole(names, counting[0], faults), _example(names, counting[0]))


def _by_pattern(names: Sequence[str], stems: Sequence[str], pattern: str, faults: Faults) -> list[int | None]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"--number is '{pattern}', which is no regular expression: {error}.") from None
    if compiled.groups < 1:
        raise ConfigError(f"--number is '{pattern}', but the number must be in brackets, as in '_(\\d+)_'.")
    found = [compiled.search(stem) for stem in stems]
    texts = [match and match.group(1) for match in found]
    for name, match, text in zip(names, found, texts, strict=True):
        if match is None:
            faults.add(f"--number '{pattern}' is not in {name}")
        elif not re.fullmatch(r"-?\d+", text or ""):
            raise ConfigError(f"--number '{pattern}' finds '{text}' in {name}, which is no whole number.")
    return [None if text is None else _as_number(name, text, faults) for name, text in zip(names, texts, strict=True)]


def _whole(names: Sequence[str], texts: Sequence[str | None], faults: Faults) -> list[int | None]:
    numbers: list[int | None] = []
    for name, text in zip(names, texts, strict=True):
        if text is None:
            faults.add(f"{name} has no number in its name to say which slice it is")
        numbers.append(None if text is None else _as_number(name, text, faults))
    return numbers


def _as_number(name: str, text: str, faults: Faults) -> int | None:
    if len(str(abs(int(text)))) <= _MOST_DIGITS:
        return int(text)
    faults.add(f"{name} has a number of more than {_MOST_DIGITS} digits")
    return None


def _decimals(stems: Sequence[str], known: Sequence[str]) -> tuple[list[str], int] | None:
    """The decimal number in which alone names differ, and its digits behind the point; of labels those of their images.

    None where there is none, or the digits behind the point count: 1.9 and then 1.10, or 1.09 and then 1.10, and not
    0.05 and then 0.1.
    """
    runs = [_DECIMAL.findall(stem) for stem in stems]
    for others in ([_DECIMAL.findall(stem) for stem in known], runs):
        differing = _differing(others)
        if len(differing) != 1 or {len(of) for of in runs} != {len(others[0])}:
            continue
        behind = [of[differing[0]].partition(".")[2] for of in others]
        counting = not any(part[:1] == "0" and len(part) > min(map(len, behind)) for part in behind)
        if any(behind) and not (counting and len(_differing([_RUN.findall(".".join(of)) for of in others])) == 1):
            return [of[differing[0]] for of in runs], max(map(len, behind))
    return None


def _differing(runs: Sequence[Sequence[str]]) -> list[int]:
    """Which of the numbers in names are not the same in all; nothing where names have more or fewer of them."""
    if len({len(of) for of in runs}) != 1:
        return []
    return [place for place, column in enumerate(zip(*runs, strict=True)) if len(set(column)) > 1]


def _scaled(name: str, text: str, digits: int, faults: Faults) -> int | None:
    """A decimal number in units of its last digit."""
    whole, _, part = text.partition(".")
    if part[digits:].strip("0"):
        faults.add(f"{name} has a number of more than {digits} decimal places, and those of the images have no more")
        return None
    return _as_number(name, whole + part[:digits].ljust(digits, "0"), faults)


def _place(known: Mapping[str, int], least: int) -> int:
    """Where, counted from the end, other names have the number that they are known by; 1 where none are known."""
    runs = [(_RUN.findall(stem), number) for stem, number in known.items()]
    places = range(least, 0, -1) if known else ()
    return next((place for place in places if all(len(of) >= place and int(of[-place]) == n for of, n in runs)), 1)


def _step(column: Sequence[str | None]) -> int:
    """The step in which these numbers count; 0 where it is not the same between all of them."""
    numbers = sorted(int(text) for text in column if text is not None)
    steps = {later - earlier for earlier, later in itertools.pairwise(numbers)}
    return steps.pop() if len(numbers) == len(column) and len(steps) == 1 else 0


def _example(names: Sequence[str], column: Sequence[str | None]) -> str:
    return f"{column[0]} in {names[0]}"


def _pattern(stem: str, place: int) -> str:
    """A pattern that finds a number, counted from the end, by what stands before it in a name."""
    before = stem[: list(_RUN.finditer(stem))[-place].start()]
    text = re.search(r"[^\d]*$", before)
    return (re.escape(text.group()) if text and text.group() else "^") + r"(\d+)"
