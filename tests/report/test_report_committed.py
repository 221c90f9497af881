"""The committed results are what the committed records give, and not what somebody has typed."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from matplotlib.figure import Figure

from hpcseg.report import figures
from hpcseg.report.build import build_report
from hpcseg.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]
PUBLISHED = sorted(path.parent for path in (ROOT / "results").rglob("grid.json"))
DRAWN = "seeds-width-64"
"""The folder whose figures are drawn; of the others the names are enough, and drawing is most of a report's time."""


def undrawn(figure: Figure, suffix: str) -> bytes:
    figure.canvas.get_renderer()  # what a picture of slices is taken from
    return b""


@pytest.mark.parametrize("folder", PUBLISHED, ids=[str(path.relative_to(ROOT / "results")) for path in PUBLISHED])
def test_the_records_rebuild_every_table_byte_for_byte(folder, tmp_path, monkeypatch):
    if folder.name != DRAWN:
        monkeypatch.setattr(figures, "_saved", undrawn)
    report = build_report(RunFolder(folder), tmp_path)
    tables = [path for path in report.written if path.suffix in (".csv", ".md")]
    assert len(tables) > 2
    for path in tables:
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name
    # Figures and the page depend on Matplotlib's version too, so that they are there is all that is asked.
    assert {path.name for path in report.written} <= {path.name for path in folder.iterdir()}
    if folder.name == DRAWN:
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        words = re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.S)).split()
        assert len(page) < 1_150_000 and len(words) < 10_000, "small enough to read"


def test_no_record_holds_a_path_of_a_machine():
    for folder in PUBLISHED:
        for path in folder.rglob("*"):
            if path.suffix in (".json", ".jsonl", ".csv", ".md", ".html"):
                text = re.sub(r"data:image[^\"]*", "", path.read_text(encoding="utf-8"))
                assert not re.search(r"(?<![\w.])/(tmp|home|root|work|mnt|scratch)/", text), path


@pytest.mark.parametrize("folder", PUBLISHED, ids=[str(path.relative_to(ROOT / "results")) for path in PUBLISHED])
def test_every_link_of_a_published_page_leads_to_a_record_beside_it(folder):
    """A page that was built elsewhere and copied leads out of its folder, over the folders of that machine."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    links = [unquote(link) for link in re.findall(r'href="([^"#]+)', page) if not link.startswith(("http", "data:"))]
    assert links
    assert [link for link in links if ".." in link or not (folder / link).exists()] == []
