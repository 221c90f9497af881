"""tables.md and report.html: typed tables, pictures and holes in, texts out by the templates beside this module.

The page is one file that needs no network and no JavaScript. The same records give the same bytes, once the run
has ended. Jinja escapes whatever comes from a record.
"""

from __future__ import annotations

import base64
import functools
import os.path
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from hpcseg.records.collect import Records
from hpcseg.records.row import CLEAN, Hole
from hpcseg.report.answers import Answer
from hpcseg.report.figures import Picture
from hpcseg.report.holes import ToldHole, told_holes
from hpcseg.report.table import Table, Text, number_text
from hpcseg.report.texts import TEXTS

_CODE = re.compile(r"(?<![`\\])`[^`]+`(?!`)")


def plain(text: str) -> str:
    """A text that may be a record's, for Markdown: on one line, without HTML, links or pictures; `code` stays code."""
    line, parts, end = " ".join(str(text).splitlines()), list[str](), 0
    for code in _CODE.finditer(line):
        parts += [_escaped(line[end : code.start()]), code.group()]
        end = code.end()
    return "".join([*parts, _escaped(line[end:])])


def _escaped(text: str) -> str:
    # A bracket ends a link, a picture or the definition of one where such a character follows.
    text = re.sub(r"[\\`]|\](?=[(\[:])", r"\\\g<0>", text)
    return text.replace("<", "&lt;").replace(">", "&gt;")


@dataclass(frozen=True)
class Live:
    """What a page says of a run that goes on; a browser loads such a page again and again."""

    written: str
    """When."""
    cells: str
    """How many stand where."""
    seconds: int
    """Until the next one."""


@dataclass(frozen=True)
class Content:
    """All that a report shows."""

    records: Records
    answers: tuple[Answer, ...]
    tables: Sequence[Table]
    pictures: Sequence[Picture]
    """Those with something to show."""
    holes: Sequence[Hole]
    notes: Sequence[str]
    origin: Mapping[str, str]
    """What the numbers come from, as label and text."""
    of_the_paper: bool
    """Anything of the paper is in it."""

    @functools.cached_property
    def told(self) -> dict[str, tuple[ToldHole, ...]]:
        """The holes by what to do about them."""
        return told_holes(self.holes, self.records.groups)

    @property
    def planned_with(self) -> str | None:
        """The command that planned the run: again, it runs the missing cells.

        None when no cell is missing, and in a comparison, which has a command for each run.
        """
        return self.records.plan.command if self.records.holes and not self.records.groups[0].of else None

    def markdown(self) -> str:
        """tables.md: all tables and figures, and the holes."""
        return self._written("tables.md.jinja", escaped=False)

    def page(self, folder: Path, live: Live | None = None) -> str:
        """report.html, for a folder from which its links lead to the cells' records; `live` while the run goes on."""
        cells = {row.id: os.path.relpath(row.cell.folder.path, folder) for row in self.records.rows}
        return self._written("report.html.jinja", escaped=True, cells=cells, live=live)

    def _written(self, template: str, *, escaped: bool, **values: Any) -> str:
        holes = {subject: hole.number for of in self.told.values() for hole in of for subject in hole.subjects}
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("hpcseg.report"),
            autoescape=escaped,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            undefined=jinja2.StrictUndefined,
        )
        environment.filters |= {
            "shown": lambda cell: cell.text if isinstance(cell, Text) else number_text(cell, holes),
            "joined": lambda text: text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%"),
            "wrong": lambda accuracy: "-" if accuracy is None else f"{100 * (1 - accuracy):.2f}",
            "plain": plain,
            "bars": lambda text: plain(text).replace("|", "\\|"),
            "code": lambda text: Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text)))),
            "base64": lambda data: base64.b64encode(data).decode("ascii"),
        }
        return environment.get_template(template).render(content=self, holes=holes, texts=TEXTS, clean=CLEAN, **values)
