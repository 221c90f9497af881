"""report.html: one file, whole, escaped, and readable on a desk and on a phone (in a real browser)."""

from __future__ import annotations

import csv
import html
import html.parser
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from test_report_records import TINY_JOB, finish, plan, tiny_run

from hpcseg.records.origin import queue_seconds
from hpcseg.report.build import build_report
from hpcseg.runs.record import write_record

LARGE = '[[grid]]\ndata.tiles = "large"\ndata.split = ["shuffled", "blocked"]\ntrain.noise_fraction = 0.5\n'
_VOID = {"meta", "img", "br", "link", "input", "path", "polyline"}


class Page(html.parser.HTMLParser):
    """Ids, links, sources, visible text, and whether every element is closed."""

    def __init__(self, text: str, *, whole: bool = True) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [] or not whole

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if "href" in values else []
        self.sources += [values["src"]] if "src" in values else []
        if tag == "img":
            assert values["alt"]
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        assert tag in _VOID

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.words.append(data)


def written(folder: Path, grid) -> str:
    build_report(grid.run, folder)
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("page")
    grid = tiny_run(folder / "run", TINY_JOB + LARGE)
    grid.cells[0].folder.evaluation_file.unlink()
    return written(folder / "out", grid)


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_a_script(text):
    page = Page(text)
    assert page.sources and all(source.startswith("data:image/") for source in page.sources)
    # Links lead into the page, to the files beside it, and to the records of the run.
    assert page.links and all(
        re.fullmatch(r"#.+|\w+\.(csv|png)|\.\./run/cells/[^/]+/\w+\.json", link) for link in page.links
    )
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert not re.search(r"@import|url\(|\son\w+=", text)


def test_every_link_leads_somewhere_and_no_name_is_there_twice(tmp_path):
    grid = tiny_run(tmp_path / "run", TINY_JOB + LARGE)
    page = Page(written(tmp_path / "out", grid))
    assert len(set(page.ids)) == len(page.ids)
    inside = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids)
    files = [link for link in page.links if not link.startswith("#")]
    assert {"table1.csv", "table2.csv", "cells.csv", "figure7.png"} <= set(files)
    assert all((tmp_path / "out" / link).is_file() for link in files)


def test_all_cells_tables_and_figures_are_there_and_numbers_lead_to_their_cells(tmp_path):
    grid = tiny_run(tmp_path / "run", TINY_JOB + LARGE)
    page = Page(written(tmp_path / "out", grid))
    words = " ".join(page.words)
    for cell in grid.cells:
        assert f"cell-{cell.id}" in page.ids and f"#cell-{cell.id}" in page.links
    assert {"table1", "table2", "figure-figure3", "figure-figure7", "cells", "holes", "origin"} <= set(page.ids)
    for name in ("table1", "table2"):
        for line in csv.DictReader(io.StringIO((tmp_path / "out" / f"{name}.csv").read_text())):
            if line["row"].endswith("ours") and line["value"]:
                assert f"{float(line['value']):.3f}" in words


def test_the_page_opens_with_answers_then_figure_7_beside_table_2_and_folds_the_rest(text):
    first = text[: text.index("<details")]
    opening = " ".join(Page(first, whole=False).words)
    assert "How near are these numbers to the paper's?" in opening and "are within a point of the paper's" in opening
    assert 'id="figure-figure7"' in first and 'id="table2"' in first and 'id="table1"' not in first
    # Each figure once.
    assert text.count("<img") == 2


def test_a_hole_leads_to_its_reason(text):
    assert "#hole-1" in Page(text).links
    assert "it is trained, but not evaluated" in " ".join(Page(text).words)


def test_time_in_the_queue_is_from_a_submission_to_the_start_that_followed(tmp_path):
    grid = plan(tmp_path / "run")
    for cell in grid.cells:
        finish(cell, lambda *_: 900)
    waited, other = grid.cells
    lines = [
        {"time": 100.0, "event": "submitted", "stage": "train", "cells": [waited.id, other.id], "job": "7"},
        {"time": 500.0, "event": "submitted", "stage": "cells", "cells": [[waited.id, other.id]], "job": "8"},
        {"time": 150.0, "event": "submitted", "stage": "evaluate", "cells": [waited.id], "job": "9"},
        {"time": 160.0, "event": "submitted", "stage": "cells", "job": "10"},
        {"time": 170.0, "event": "submitted", "stage": "cells", "cells": [[]], "job": "11"},
    ]
    grid.run.submissions_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    events = [{"time": 130.0, "event": "start"}, {"time": 300.0, "event": "resume"}, {"time": 590.0, "event": "resume"}]
    waited.folder.events_file.write_text("".join(json.dumps(event) + "\n" for event in events))
    other.folder.events_file.write_text("")
    assert queue_seconds(grid.run) == {waited.id: 30.0 + 90.0}
    assert "0.03 hours in the queue" in written(tmp_path / "out", grid)  # 120 s are 0.033 hours
    assert "not known here" not in written(tmp_path / "out", grid)
    other.folder.events_file.unlink()
    other.folder.events_file.mkdir()
    assert queue_seconds(grid.run) == {waited.id: 30.0 + 90.0}, "of a cell whose events cannot be read it is not known"


def test_a_job_that_only_evaluates_has_waited_too(tmp_path):
    grid = plan(tmp_path / "run")
    cell = grid.cells[0]
    submitted = {"event": "submitted", "stage": "cells", "cells": [[cell.id]]}
    lines = [{"time": time, **submitted, "job": str(time)} for time in (100.0, 500.0)]
    grid.run.submissions_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = [
        (130.0, "start"),
        (300.0, "trained"),
        (310.0, "evaluate"),
        (400.0, "evaluation stopped"),
        (575.0, "evaluate"),
    ]
    cell.folder.events_file.write_text("".join(json.dumps({"time": at, "event": what}) + "\n" for at, what in told))
    assert queue_seconds(grid.run) == {cell.id: 30.0 + 75.0}


def test_hours_are_of_threads_where_there_is_no_gpu_and_of_ranks_where_there_is(tmp_path):
    grid = tiny_run(tmp_path / "run")
    for cell, device in zip(grid.cells, ("CPU, 3 threads", "NVIDIA H200"), strict=True):
        training = json.loads(cell.folder.training_file.read_text())
        training["provenance"]["device"], training["seconds"] = device, 3600.0
        write_record(cell.folder.training_file, training)
    # 2 ranks: 2 GPU hours and 6 core hours, and an evaluation of 2 s on a device called CPU, of one thread, by each.
    cost = "2.00 GPU hours, 6.00 core hours, time in the queue not known here"
    assert cost in " ".join(Page(written(tmp_path / "out", grid)).words)


_chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def browse(page: Path, *options: str) -> str:
    command = [
        _chromium,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(_chromium is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_a_browser_shows_it_without_scrolling_sideways(text, tmp_path, width):
    # In a frame, since a browser's window has a least width of its own.
    measure = (
        "<script>onload = () => { const page = document.querySelector('iframe').contentDocument.documentElement;"
        "document.title = page.scrollWidth + ' ' + page.querySelectorAll('.scroll').length; }</script>"
    )
    frame = tmp_path / "frame.html"
    opened = text.replace("<details", "<details open")
    frame.write_text(
        f'<iframe style="border:0" width="{width}" height="900" srcdoc="{html.escape(opened)}"></iframe>{measure}'
    )
    found = re.search(r"<title>(\d+) (\d+)</title>", browse(frame, "--dump-dom"))
    assert int(found[1]) == width
    assert int(found[2]) > 3


@pytest.mark.skipif(_chromium is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_first_screen_has_the_answers_and_at_a_desk_the_figure_beside_the_table(text, tmp_path, width):
    measure = (
        "<script>onload = () => { const page = document.querySelector('iframe').contentDocument;"
        "const top = (what) => Math.round(page.querySelector(what).getBoundingClientRect().top);"
        "document.title = ['.answers dd', '#figure-figure7', '#table2'].map(top).join(' '); }</script>"
    )
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe style="border:0" width="{width}" height="900" srcdoc="{html.escape(text)}"></iframe>{measure}'
    )
    answer, figure, table = map(int, re.search(r"<title>(.*?)</title>", browse(frame, "--dump-dom"))[1].split())
    assert 0 < answer < figure < 900
    if width == 1280:
        assert abs(figure - table) < 30 and table < 600
    else:
        assert table > figure + 100, "one below the other"


@pytest.mark.skipif(_chromium is None, reason="there is no Chromium here")
@pytest.mark.parametrize(("scheme", "light"), [("1", True), ("0", False)])
def test_its_screenshot_is_light_or_dark_as_the_reader_likes_it(text, tmp_path, scheme, light):
    page, shot = tmp_path / "report.html", tmp_path / "shot.png"
    page.write_text(text)
    browse(page, f"--screenshot={shot}", "--window-size=1280,1600", f"--blink-settings=preferredColorScheme={scheme}")
    pixels = matplotlib.image.imread(shot)[..., :3].mean(-1)
    assert (np.median(pixels) > 0.5) == light
    # Words and tables: not one flat colour.
    assert 0.02 < np.mean(np.abs(pixels - np.median(pixels)) > 0.2) < 0.5
