"""report.html: everything of a report in one file that needs no network and no JavaScript.

The same records give the same bytes. Whatever comes from a record is escaped.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpcseg.report.collect import Hole, Records
from hpcseg.report.figures import Picture
from hpcseg.report.markup import box, head_row, inline
from hpcseg.report.page_cells import cells_section
from hpcseg.report.page_cost import cost_section
from hpcseg.report.sheet import Block, Sheet

_LEAD = (
    "U-Nets that segment X-ray slices, trained with different amounts of data and of noise: every table and figure of "
    "this run, beside the paper's numbers where it has them. Every number of ours leads to the cells that it was "
    "computed from, and each cell to its settings, its confusion matrices, its commit, data and machine."
)
_PAPER = (
    "Paper: Desvig-Forss, Petersen, Woulhøj Jakobsen, <cite>Automating the Segmentation of X-ray Images with Deep "
    "Neural Networks</cite>, DTU 2023."
)


def page(
    records: Records,
    sheets: Sequence[Sheet],
    pictures: Mapping[str, Picture],
    holes: Sequence[Hole],
    notes: Sequence[str],
    origin: Mapping[str, str],
) -> str:
    """The whole page.

    Args:
        records: of the run.
        sheets: its tables.
        pictures: its figures, by name.
        holes: what is missing, in the order of their numbers.
        notes: sentences that deserve a look.
        origin: what the numbers come from, as label and text.
    """
    drawn = {name: picture for name, picture in pictures.items() if picture.files}
    contents = [(sheet.name, sheet.title.split(":")[0]) for sheet in sheets]
    contents += [(f"figure-{name}", picture.title.split(":")[0]) for name, picture in drawn.items()]
    contents += [("cells", "Cells"), ("cost-of-run", "Cost"), ("holes", "Holes"), ("origin", "What this was made from")]
    sections = [_sheet(sheet) for sheet in sheets]
    sections += [_figure(name, picture) for name, picture in drawn.items()]
    sections += [cells_section(records), cost_section(records), _holes(holes), _notes(notes), _origin(origin)]
    title = html.escape(str(records.plan["title"]))
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            "<header>",
            f"<h1>{title}</h1>",
            f'<p class="lead">{html.escape(_LEAD)}</p>',
            *_questions(records.questions),
            '<nav aria-label="Contents"><ul>',
            *(f'<li><a href="#{html.escape(anchor)}">{inline(text)}</a></li>' for anchor, text in contents),
            "</ul></nav>",
            "</header>",
            "<main>",
            *sections,
            "</main>",
            f"<footer><p>Written by <code>hpcseg report</code>. {_PAPER}</p></footer>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _questions(questions: Sequence[str]) -> list[str]:
    if not questions:
        return []
    return ["<p>What it is to answer:</p>", f"<ul>{''.join(f'<li>{inline(text)}</li>' for text in questions)}</ul>"]


def _sheet(sheet: Sheet) -> str:
    texts = [f'<section id="{html.escape(sheet.name)}">', f"<h2>{inline(sheet.title)}</h2>"]
    texts.append(f'<p class="caption">{inline(sheet.caption)}</p>')
    for block in sheet.blocks:
        texts += [f"<h3>{inline(block.heading)}</h3>"] if block.heading else []
        texts.append(_block(block, f"{sheet.title}, {block.heading}"))
    return "\n".join([*texts, "</section>"])


def _block(block: Block, label: str) -> str:
    body = []
    for number, line in enumerate(block.lines):
        sources = block.sources[number] if block.sources else ("",) * len(line)
        kind = "paper" if line[0].endswith(", paper") else "difference" if line[0] == "difference" else ""
        cells = "".join(f"<td>{_number(text, source)}</td>" for text, source in zip(line[1:], sources[1:], strict=True))
        # A row that compares two groups leads to the second by its name.
        name = _number(line[0], sources[0]) if sources[0] not in sources[1:] else inline(line[0])
        body.append(f'<tr{f" class={kind!r}" if kind else ""}><th scope="row">{name}</th>{cells}</tr>')
    return box(head_row(map(inline, block.head)), body, label)


def _number(text: str, source: str) -> str:
    """A number of a table, as a link to the cells behind it."""
    if not source or text == "-" or "hole" in text:
        return inline(text)
    return f'<a href="#group-{html.escape(source)}">{inline(text)}</a>'


def _figure(name: str, picture: Picture) -> str:
    # A drawing stays sharp at any size; one with pictures inside is smaller as pixels.
    drawing = b"<image" not in picture.files["svg"]
    kind, content = ("svg+xml", picture.files["svg"]) if drawing else ("png", picture.files["png"])
    data = base64.b64encode(content).decode("ascii")
    title = html.escape(picture.title)
    number, _, rest = title.partition(": ")
    links = [f'<a href="#cell-{html.escape(one)}"><code>{html.escape(one)}</code></a>' for one in picture.sources]
    shown = f"<details><summary>The cells behind it</summary><div><p>{', '.join(links)}</p></div></details>"
    return (
        f'<section id="figure-{html.escape(name)}"><h2>{number}</h2>'
        f'<figure><div class="drawing"><img src="data:image/{kind};base64,{data}" alt="{title}"></div>'
        f"<figcaption>{rest[:1].upper() + rest[1:]}</figcaption></figure>{shown}</section>"
    )


def _holes(holes: Sequence[Hole]) -> str:
    items = [
        f'<li id="hole-{number}">{inline(f"`{hole.subject}`: {hole.reason} {hole.remedy}")}</li>'
        for number, hole in enumerate(holes, start=1)
    ]
    listed = f"<ol>{''.join(items)}</ol>" if items else "<p>None: every cell of the job is here.</p>"
    return f'<section id="holes"><h2>Holes</h2>{listed}</section>'


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return f"<section><h2>Notes</h2><ul>{''.join(f'<li>{inline(note)}</li>' for note in notes)}</ul></section>"


def _origin(origin: Mapping[str, str]) -> str:
    title = "What this was made from"
    lines = [
        f'<tr><th scope="row">{html.escape(label)}</th><td>{inline(text)}</td></tr>' for label, text in origin.items()
    ]
    return f'<section id="origin"><h2>{title}</h2>{box("", lines, title, text=True)}</section>'
