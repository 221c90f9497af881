"""Texts and values as others get them: without what controls a terminal, ends a script's line, or makes a formula."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hpcseg.errors import ConfigError

# C0, DEL and C1, what Unicode calls the ends of lines and paragraphs, and the marks that turn the direction of writing.
_CONTROLS = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_CONTROL = re.compile(f"[{_CONTROLS}]")
_UNSHOWN = re.compile(rf"(?![\n\t])[{_CONTROLS}]")
_MOST_SHOWN = 100
_MOST_NAMED = 3
_CELL_ID = re.compile(r"[A-Za-z0-9._-]{1,255}")


def has_controls(text: str) -> bool:
    """Whether a text has a control character, line ends among them."""
    return _CONTROL.search(text) is not None


def refuse_controls(text: str, what: str) -> None:
    """See that a text is one line without control characters: in a job's script the next line would be a command.

    Args:
        text: that goes to sbatch.
        what: it is, as the error names it.

    Raises:
        ConfigError: it has one.
    """
    if has_controls(text):
        raise ConfigError(f"{what} is {text!a}, and must have no line end and no other control character.")


def for_terminal(text: str) -> str:
    """A text without what a terminal obeys and does not show; line ends and tabs stay."""
    # Nothing stands in their place: to a table they are no columns wide.
    return _UNSHOWN.sub("", text)


def is_cell_id(text: str) -> bool:
    """Whether a text can be a cell's id: letters, digits, ".", "_" and "-", and the name of no other folder."""
    return _CELL_ID.fullmatch(text) is not None and text not in (".", "..")


def cell_text(text: str) -> str:
    """A text for a CSV that a spreadsheet takes for no formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def shortened(text: str, most: int = _MOST_SHOWN) -> str:
    """A text of a file as an error shows it: all of it, unless somebody has written a book there."""
    return text if len(text) <= most else f"{text[:most]}..."


def some_of(names: Sequence[str]) -> str:
    """Names in a sentence: all of a few, else two of them, and how many there are besides."""
    few = names if len(names) <= _MOST_NAMED else names[:2]
    return ", ".join(few) + (f" and {len(names) - len(few)} more" if len(few) < len(names) else "")


def counted(number: int, what: str) -> str:
    """A number of things: "1 cell", "3 cells"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def shown(value: object) -> str:
    """A setting's value as a name has it: of a number the shortest text that is still this number."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return repr(value) if isinstance(value, float) and float(short) != value else short


def two_digits(number: float) -> str:
    """A number of 0 or more with two digits, or, where it has more in front of its point, with all of these."""
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"
