"""Pieces of HTML that the parts of report.html share. Whatever is a text is escaped here."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable


def inline(text: str) -> str:
    """Escaped text, with the `code` and the **bold** of the Markdown report; a bold hole leads to the list of holes."""
    safe = html.escape(text)
    safe = re.sub(r"`([^`]*)`", r"<code>\1</code>", safe)
    safe = re.sub(r"\*\*hole (\d+)", r'**<a class="hole" href="#hole-\1">hole \1</a>', safe)
    return re.sub(r"\*\*([^*]*)\*\*", r"<strong>\1</strong>", safe)


def box(head: str, lines: Iterable[str], label: str, *, text: bool = False) -> str:
    """A table in a box that scrolls by itself where the page is narrow.

    Args:
        head: the row of column heads, or "".
        lines: its rows; both are HTML already.
        label: says what the table is to who cannot see it.
        text: its cells are texts and not numbers.
    """
    kind = ' class="text"' if text else ""
    top = f"<thead>{head}</thead>" if head else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(label)}">'
        f"<table{kind}>{top}<tbody>{''.join(lines)}</tbody></table></div>"
    )


def head_row(texts: Iterable[str]) -> str:
    """The row of column heads; a corner without a text is no head."""
    cells = (f'<th scope="col">{text}</th>' if text else "<td></td>" for text in texts)
    return f"<tr>{''.join(cells)}</tr>"
