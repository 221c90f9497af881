"""Names of files in, the numbers of their slices out: the one thing in the names that tells the slices apart."""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from pathlib import Path

from hpcseg.errors import ConfigError

_MOST_DIGITS = 18  # of a 64-bit integer
_RUN = re.compile(r"(?:(?<![^\W_])-)?\d+")  # a minus behind a letter or a digit is a hyphen
_MINUS = re.compile(r"(?<=[^\W\d_])-(?=\d)")  # that may be meant as one
_WORD = re.compile(r"([^\W\d_]+)\d+")
_DECIMAL = re.compile(rf"{_RUN.pattern}(?:\.\d+)?")

_Column = Sequence[str | None]
"""One of the numbers in each name, as it is written; None: it has none."""


def number_names(
    names: Sequence[str], faults: list[str], *, pattern: str | None = None, known: Mapping[str, int] | None = None
) -> tuple[list[int | None], str]:
    """The number of each slice.

    By the pattern, if one is given; as others of the same names are known; or where the names differ. A number that all
    names share, as a date or the 16 of rec_0001_16bit, tells no slices apart. Where names differ in several, it is the
    one that counts in equal steps, the smallest if several do; z_9.2, z_10 and z_10.4 are 92, 100 and 104. What is a
    hyphen in scan-1 is a minus in z-1 beside z1.

    Args:
        names: of files; their suffix does not count.
        faults: gets what is wrong with which name.
        pattern: a regular expression, whose first group is the number.
        known: numbers of other files by their names without suffix, as of images where these are their labels.

    Returns:
        The numbers, None where a fault says why there is none; and which of several in a name were taken, for a note.

    Raises:
        ConfigError: the pattern is none.
    """
    stems, known = [Path(name).stem for name in names], known or {}
    with_signs = pattern is None and (_differ_in_a_minus(stems) or _differ_in_a_minus(known))
    if with_signs:
        stems, known = [_MINUS.sub(" -", stem) for stem in stems], {_MINUS.sub(" -", one): known[one] for one in known}
    lengths = set(map(len, known))
    named = [_named_after(stem, known, lengths) if pattern is None else None for stem in stems]
    if known and pattern is None and None in named:
        named = _within_known(stems, known) or named
    if known and None not in named:
        return named, ""
    if pattern is None:
        column, note = _decimals(names, stems, known, faults) or _telling(names, stems, known, faults)
    else:
        column, note = _by_pattern(names, stems, pattern), ""
    if column is None:
        return [None] * len(names), ""
    numbers: list[int | None] = []
    for name, text, of_image in zip(names, column, named, strict=True):
        number = None if text is None else int(text)
        if number is None:
            why = f"as --number '{pattern}' says" if pattern else "to say which slice it is"
            faults.append(f"{name} has no number in its name {why}")
        elif abs(number) >= 10**_MOST_DIGITS:
            faults.append(f"{name} has a number of more than {_MOST_DIGITS} digits")
            number = None
        elif of_image not in (None, number):
            faults.append(f"{name} has the name of slice {of_image} in its own, and the number {number}; see --number")
        numbers.append(number)
    below_zero = (
        (of, name) for of, name in zip(numbers, names, strict=True) if with_signs and of is not None and of < 0
    )
    return numbers, note or next((f"{of} in {name}" for of, name in below_zero), "")


def _differ_in_a_minus(stems: Iterable[str]) -> bool:
    """Whether two names are the same but for a minus before a number, and zeros."""
    stems = set(stems)
    return len({re.sub(r"(?<!\d)[-+]?0*(?=\d)", "", stem) for stem in stems}) < len(stems)


def _named_after(stem: str, known: Mapping[str, int], lengths: Iterable[int]) -> int | None:
    """The number of the one file whose whole name a name is or has in it, as slice_0005 in label_of_slice_0005_8bit.

    A name of nothing but a number says no more than any number does. `lengths` are those of the known names.
    """
    if stem in known:
        return known[stem]
    spans = _places_of(known, lengths, stem)
    longest = [of for of in spans if not any(of != one and one[0] <= of[0] and of[1] <= one[1] for one in spans)]
    return known[stem[slice(*longest[0])]] if len(longest) == 1 else None


def _places_of(names: Container[str], lengths: Iterable[int], stem: str) -> list[tuple[int, int]]:
    """Where in a name others of these lengths stand, first and end, that are more than a number."""
    return [
        (first, first + length)
        for length in lengths
        for first in range(len(stem) - length + 1)
        if stem[first : first + length] in names
        and not _RUN.fullmatch(stem[first : first + length])
        # It goes on neither as a number nor as a word.
        and not any(_goes_on(stem, at) for at in (first, first + length))
    ]


def _within_known(stems: Sequence[str], known: Mapping[str, int]) -> list[int | None] | None:
    """The numbers of the files in each of whose names one of these has its place, as rec_0002 in rec_0002_0001.

    None where one is in no name or in several, or two are in one.
    """
    wanted, lengths, numbers = set(stems), set(map(len, stems)), dict[str, set[int]]()
    for name, number in known.items():
        for first, end in _places_of(wanted, lengths, name):
            numbers.setdefault(name[first:end], set()).add(number)
    found = [numbers.get(stem, set()) for stem in stems]
    clear = all(len(of) == 1 for of in found) and len(set[int]().union(*found)) == len(found)
    return [of.pop() for of in found] if clear else None


def _shared_words(stems: Iterable[str], known: Collection[str]) -> set[str]:
    """Words with a number behind them that all names have, as sample2, of several known ones: they tell of no slice."""
    words = [{found[0] for found in _WORD.finditer(stem)} for stem in (*stems, *known)]
    return set.intersection(*words) if len(known) > 1 else set()


def _without(shared: set[str], stem: str) -> str:
    """A name without the numbers of such words."""
    return _WORD.sub(lambda found: found[1] if found[0] in shared else found[0], stem)


def _goes_on(stem: str, at: int) -> bool:
    before, behind = stem[max(0, at - 1) : at], stem[at : at + 1]
    return (before.isdigit() and behind.isdigit()) or (before.isalpha() and behind.isalpha())


def _by_pattern(names: Sequence[str], stems: Sequence[str], pattern: str) -> _Column:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"--number is '{pattern}', which is no regular expression: {error}.") from None
    if compiled.groups < 1:
        raise ConfigError(f"--number is '{pattern}', but the number must be in brackets, as in '_(\\d+)_'.")
    found = [compiled.search(stem) for stem in stems]
    for name, match in zip(names, found, strict=True):
        if match and not re.fullmatch(r"[-+]?\d+", match[1] or ""):
            what = "nothing for its brackets" if match[1] is None else f"'{match[1]}'"
            raise ConfigError(f"--number '{pattern}' finds {what} in {name}, which is no whole number.")
    return [match and match[1] for match in found]


def _telling(
    names: Sequence[str], stems: Sequence[str], known: Mapping[str, int], faults: list[str]
) -> tuple[_Column | None, str]:
    """The numbers that tell the names apart, and which they are where others might be meant."""
    example, shared = next(iter(known), ""), _shared_words(stems, known)
    stems, known = [_without(shared, stem) for stem in stems], {_without(shared, one): known[one] for one in known}
    runs = [_RUN.findall(stem) for stem in stems]
    least = min((len(of) for of in runs if of), default=0)
    columns: list[_Column] = [[of[-place] if of else None for of in runs] for place in range(least, 0, -1)]
    differing = [column for column in columns if len({text for text in column if text is not None}) > 1]
    # Written twice in each name, as in 0001_0001, it is one.
    differing = [column for place, column in enumerate(differing) if column not in differing[:place]]
    if known and len(differing) != 1:
        fitting = _as_known(stems, columns, differing if len(names) > 1 else columns, known)
        if len(fitting) > 1:
            shown = " and ".join(str(of[0]) for of in fitting)
            faults.append(
                f"{names[0]} has {len(fitting)} numbers that a slice has ({shown}). Name labels as their images, "
                f"such as {example}, or say which it is with --number, a pattern that fits both"
            )
            return None, ""
        differing = fitting or differing
    if len(differing) > 1 and None not in differing[0]:
        steps = [_step(column) for column in differing]
        smallest = min(filter(None, steps), default=None)
        counting = [column for column, step in zip(differing, steps, strict=True) if step == smallest]
        if smallest is None or len(counting) > 1:
            faults.append(_which(names, stems, differing, columns))
            return None, ""
        differing = counting
    # Where no number tells them apart, it is the one with zeros before it, as counters are written, or the last.
    padded = [column for column in columns if str(column[0]).startswith("0") and str(column[0]) != "0"]
    column = (differing or padded[-1:] or columns[-1:] or [[None] * len(names)])[0]
    # One label alone has no other to tell that by, unless it is numbered as an image is.
    said = max(map(len, runs), default=0) > 1 or (known and len(names) == 1 and runs[0] not in map(_RUN.findall, known))
    at = max(range(len(names)), key=lambda at: len(runs[at]), default=0)  # of which others may be meant
    return column, f"{column[at]} in {names[at]}" if said and column[at] is not None else ""


def _as_known(
    stems: Sequence[str], columns: list[_Column], among: list[_Column], known: Mapping[str, int]
) -> list[_Column]:
    """Of several numbers in the names of labels those that may be of their images, which are known; one if it is clear.

    It is clear where one is written as images have theirs, in as many digits with zeros before them, or stands at the
    same place of names that are otherwise alike: before it, or in all other numbers, of which there are as many.
    """
    numbers, fitting = set(known.values()), dict[tuple[str | None, ...], _Column]()
    for column in among:
        found = [int(text) for text in column if text is not None]
        if len(set(found)) == len(column) and numbers.issuperset(found):
            fitting[tuple(column)] = column
    others = [(_RUN.findall(stem), number) for stem, number in known.items()]
    if len(fitting) > 1 and len({len(of) for of, _ in others}) == 1:
        for place in range(len(others[0][0]), 0, -1):
            written = {of[-place] for of, number in others if int(of[-place]) == number}
            if len(written) == len(others):
                digits = set(map(len, written))
                alike = [of for of in fitting if written.issuperset(of) and any(str(text)[0] == "0" for text in of)]
                # Who labels a few slices may count them too: 0001_slice7, 0002_slice9.
                counts = len(alike) == 1 and len(alike[0]) < len(known) and _counts_from_the_start(alike[0])
                if len(digits) == 1 and digits != {1} and len(alike) == 1 and not counts:
                    return [fitting[alike[0]]]
                at_place = tuple(columns[-place]) if len(columns) == len(others[0][0]) else ()
                if at_place in fitting and _are_alike(stems, known, place):
                    return [fitting[at_place]]
    return list(fitting.values())


def _are_alike(stems: Sequence[str], known: Mapping[str, int], place: int) -> bool:
    """Whether each name is like that of its image, by the number at a place from the end, but for that number.

    Alike is what stands before it, or all other numbers.
    """
    images = {number: stem for stem, number in known.items()}

    def parts(stem: str) -> tuple[str, list[int]]:
        runs = list(_RUN.finditer(stem))
        return stem[: runs[-place].start()], [int(run[0]) for run in runs if run is not runs[-place]]

    of_labels = [(parts(stem), int(_RUN.findall(stem)[-place])) for stem in stems]
    return all(any(map(operator.eq, mine, parts(images[number]))) for mine, number in of_labels)


def _counts_from_the_start(column: _Column) -> bool:
    numbers = sorted(int(text) for text in column if text is not None)
    return numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(column)))


def _which(names: Sequence[str], stems: Sequence[str], among: list[_Column], columns: list[_Column]) -> str:
    """A fault: several numbers may be the slice's."""
    shown = " and ".join(str(column[0]) for column in among)
    last = list(_RUN.finditer(stems[0]))[columns.index(among[-1]) - len(columns)].start()
    before = re.escape(re.findall(r"\D*$", stems[0][:last])[0]) or "^"
    behind = len(columns) - 1 - columns.index(among[-1])
    # What stands before it may stand before another number as well, which is counted then from the end of a name.
    patterns = (rf"{before}(\d+)", r"(\d+)" + r"\D+\d+" * behind + r"\D*$")
    fitting = [
        pattern
        for pattern in patterns
        if all(
            (found := re.search(pattern, stem)) and int(found[1]) == abs(int(text or 0))
            for stem, text in zip([Path(name).stem for name in names], among[-1], strict=True)
        )
    ]
    such = f" such as --number '{fitting[0]}'" if fitting else ""
    return (
        f"the names differ in {len(among)} numbers ({shown} in {names[0]}); say which is the slice's with --number, a "
        f"pattern round it{such}"
    )


def _decimals(
    names: Sequence[str], stems: Sequence[str], known: Iterable[str], faults: list[str]
) -> tuple[_Column, str] | None:
    """The only decimal number in which names differ, of labels that of their images, in units of its last digit.

    None where there is none, or the digits behind the point count: 1.9 and then 1.11, and not 0.05 and then 0.1, nor
    1.0, 1.25, 1.5 and 1.75, whose steps are equal.
    """
    runs, theirs = ([_DECIMAL.findall(stem) for stem in of] for of in (stems, known))
    if theirs and not any("." in number for of in theirs for number in of):
        return None  # of images that have whole numbers labels have no others
    for others in (theirs, runs):
        differing = _differing(others)
        if len(differing) != 1 or {len(of) for of in runs} != {len(others[0])}:
            continue
        behind = [of[differing[0]].partition(".")[2] for of in others]
        if not any(behind):
            continue
        digits = max(map(len, behind))
        counting = not any(part[:1] == "0" and len(part) > min(map(len, behind)) for part in behind)
        if _step([part.ljust(digits, "0") for part in behind]) and not _step([part or "0" for part in behind]):
            counting = False
        if not (counting and len(_differing([_RUN.findall(".".join(of)) for of in others])) == 1):
            parts = [of[differing[0]].partition(".") for of in runs]
            faults += [
                f"{name} has a number of more than {digits} decimal places, and those of the images have no more"
                for name, (_, _, part) in zip(names, parts, strict=True)
                if part[digits:].strip("0")
            ]
            column = [whole + part[:digits].ljust(digits, "0") for whole, _, part in parts]
            return column, f"{''.join(parts[0])} in {names[0]}"
    return None


def _differing(runs: Sequence[Sequence[str]]) -> list[int]:
    """Which of the numbers in names are not the same in all; nothing where names have more or fewer of them."""
    if len({len(of) for of in runs}) != 1:
        return []
    return [place for place, column in enumerate(zip(*runs, strict=True)) if len(set(column)) > 1]


def _step(column: _Column) -> int | None:
    """The step in which these numbers count; None where it is not the same between all of them."""
    numbers = sorted(int(text) for text in column if text is not None)
    steps = {later - earlier for earlier, later in itertools.pairwise(numbers)}
    return steps.pop() if len(numbers) == len(column) and len(steps) == 1 else None
