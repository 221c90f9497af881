"""Reports of jobs that ask for nothing of the paper, and runs that are compared."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import textwrap
from pathlib import Path

import pytest
from test_report_records import NUMERICS, OWN_JOB, change, finish, plan, tiny_run
from typer.testing import CliRunner

from hpcseg.cli.app import app
from hpcseg.errors import ConfigError
from hpcseg.jobfile import find_shipped, load_job
from hpcseg.records.collect import collect
from hpcseg.records.compare import collect_to_compare
from hpcseg.records.groups import axes, axes_label, counterparts
from hpcseg.report import own
from hpcseg.report.build import build_report, compare
from hpcseg.report.figures import FIGURES
from hpcseg.report.own import compared
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import write_plan
from hpcseg.runs.record import write_record

SEEDS = "train.seed = [0, 1, 2]\n"


def numbers(folder, table: str, **wanted: str) -> dict[str, float]:
    """The values of a written table by their columns, of the lines that have these texts."""
    lines = csv.DictReader(io.StringIO((folder / f"{table}.csv").read_text()))
    return {line["column"]: float(line["value"]) for line in lines if wanted.items() <= line.items()}


def test_a_job_without_report_has_nothing_of_the_paper_in_its_report_and_files(tmp_path):
    grid = tiny_run(tmp_path / "run", OWN_JOB)
    said = CliRunner().invoke(app, ["report", "--run", str(grid.run.path), "-o", str(tmp_path / "out")])
    assert said.exit_code == 0, said.output
    written = {path.name: path.read_text(errors="replace") for path in (tmp_path / "out").iterdir()}
    assert {"axes.csv", "resources.csv", "epochs.png", "tables.md", "report.html"} <= set(written)
    assert not [name for name in written if re.match(r"table\d|figure", name)]
    page = re.sub(r"<style>.*?</style>|base64,[^\"]*", "", written["report.html"], flags=re.S)
    for text in (said.output, written["tables.md"], page):
        assert re.findall(r".*(?:paper|Figure|Table \d).*", text) == []


def test_the_shipped_jobs_for_own_slices_ask_for_nothing_of_the_paper():
    theirs = {"table1", "table2", "batch_norm", "weight_decay", "whole_slices", "readings"}
    for name in ("demo", "segment", "smoke"):
        wanted = load_job(find_shipped("job", name)).report
        names = {*wanted.tables, *wanted.figures}
        assert "axes" in names and not names & theirs and not [one for one in names if one.startswith("figure")]


def test_accuracy_and_iou_are_those_of_the_counts_for_each_setting(tmp_path):
    grid = plan(tmp_path / "run", OWN_JOB + SEEDS)
    for cell in grid.cells:
        finish(cell, lambda config, sigma: 900 + config.train.seed + (40 if config.train.noise_fraction else 0))
    build_report(grid.run, tmp_path / "out")
    clean, noisy = (numbers(tmp_path / "out", "axes", row=f"noise fraction {one}") for one in ("0", "0.5"))
    # 900, 901 and 902 of 1000 pixels are right; the others are taken for class 1, which is nowhere.
    assert clean["clean: right, %"] == pytest.approx(0.901) and noisy["clean: right, %"] == pytest.approx(0.941)
    assert clean["clean: mean IoU"] == pytest.approx(0.901 / 2)
    gained = numbers(tmp_path / "out", "axes", row="0.5 against 0")
    assert gained["clean"] == pytest.approx(0.040)
    assert "**+4.00 ± 0.00**" in (tmp_path / "out" / "tables.md").read_text(), "the same in all three seeds"


def test_a_seed_that_has_collapsed_is_seen_in_the_table_and_in_the_answer(tmp_path):
    grid = plan(tmp_path / "run", OWN_JOB.replace("[0.0, 0.5]", "0.0") + SEEDS)
    for cell in grid.cells:
        finish(cell, lambda config, sigma: (980, 979, 450)[config.train.seed])
    built = build_report(grid.run, tmp_path / "out")
    assert "| all cells | 98.00, 97.90, 45.00 |" in (tmp_path / "out" / "tables.md").read_text()
    assert any(one.text.startswith("98.00, 97.90, 45.00 % of the clean test tiles") for one in built.content.answers)


@pytest.mark.parametrize(("axis", "explained"), [("", False), ("train.batch_norm = [true, false]\n", True)])
def test_gains_are_explained_where_there_are_any(tmp_path, axis, explained):
    grid = plan(tmp_path / "run", "[[grid]]\n" + axis + SEEDS)
    for cell in grid.cells:
        finish(cell, lambda config, sigma: 900 + config.train.seed)
    build_report(grid.run, tmp_path / "out")
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert ("what a value gains over the first" in tables) is explained
    assert re.findall(r"all (\d+) comparisons", tables) != ["0"]


def test_what_a_setting_took_is_in_its_report(tmp_path):
    grid = tiny_run(tmp_path / "run", OWN_JOB)
    for cell, memory in zip(grid.cells, ({"host": 512, "gpu": 2048}, {"host": 600}), strict=True):
        change(cell.folder.training_file, peak_memory_mib=memory)
    build_report(grid.run, tmp_path / "out")
    took = numbers(tmp_path / "out", "resources", row="noise fraction 0")
    assert (took["seconds"], took["MiB"], took["MiB of the GPU"], took["training tiles"]) == (100.25, 512, 2048, 350)
    assert "MiB of the GPU" not in numbers(tmp_path / "out", "resources", row="noise fraction 0.5")
    assert "| CPU |" in (tmp_path / "out" / "tables.md").read_text()


LABELS = OWN_JOB.replace("[[grid]]", '[report]\ntables = ["labels"]\nfigures = []\n[[grid]]')


def test_how_much_a_setting_has_labelled_is_in_the_table_of_labels(tmp_path):
    grid = tiny_run(tmp_path / "run", LABELS + SEEDS)
    for cell in grid.cells:
        if not cell.config.train.noise_fraction:
            # Of 350 tiles of 128 x 128 pixels one pixel in four, and in each of the slices as many more as the seed.
            pixels = 1_433_600 + 100 * cell.config.train.seed
            change(cell.folder.training_file, train_slices=100, train_labelled_pixels=pixels)
        elif cell.config.train.seed:
            # Of before pixels were counted; the first seed is of before slices were.
            change(cell.folder.training_file, train_slices=40 + cell.config.train.seed)
    build_report(grid.run, tmp_path / "out")
    found, before = (numbers(tmp_path / "out", "labels", row=f"noise fraction {one}") for one in ("0", "0.5"))
    assert found == pytest.approx(
        {
            "slices": 100,
            "labelled pixels": 1_433_700,
            "labelled pixels per slice": 14_337,
            "share of the tiles' pixels": 1_433_700 / 5_734_400,
        },
        abs=1e-6,  # the file has six decimals
    )
    assert before == {"slices": 41.5}
    text = (tmp_path / "out" / "tables.md").read_text()
    assert "| noise fraction 0 | 100 | 1433700 | 14337 | 0.250 |" in text
    assert re.search(r"^\| noise fraction 0\.5 \| 42 \| - \| - \| - \|$", text, re.MULTILINE)


@pytest.mark.parametrize("counted", [{}, {"train_tiles": 0, "steps": 0, "train_slices": 0, "train_labelled_pixels": 0}])
def test_a_training_that_has_counted_no_labels_has_no_share_of_them(tmp_path, counted):
    grid = tiny_run(tmp_path / "run", LABELS)
    for cell in grid.cells:
        change(cell.folder.training_file, **counted)
    build_report(grid.run, tmp_path / "out")
    found = numbers(tmp_path / "out", "labels", row="noise fraction 0")
    assert found == ({"slices": 0, "labelled pixels": 0} if counted else {})


def test_the_table_that_contributing_shows_is_one(tmp_path):
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    shown = re.search(r"^ +def speed.*?devices=True\)\)$", page, re.DOTALL | re.MULTILINE)[0]
    names = {**vars(own)}
    exec(textwrap.dedent(shown), names)
    (block,) = names["speed"](collect(tiny_run(tmp_path / "run", OWN_JOB).run)).blocks
    # 350 tiles in each of two epochs, in 100.25 s.
    assert [line.cells[0].found.mean for line in block.lines] == pytest.approx([700 / 100.25] * 2)


def test_epochs_of_other_settings_are_not_shown_as_this_cells(tmp_path):
    grid = tiny_run(tmp_path / "run", OWN_JOB)
    grid.cells[0].folder.training_file.unlink()
    assert len(collect(grid.run).rows[0].epochs) == 2
    change(grid.cells[0].folder.config_file, train={})
    assert collect(grid.run).rows[0].epochs == ()


def of_width(folder, width: int, right: int, more: str = ""):
    """A finished run of three seeds; its cells have so many right pixels of 1000, and as many more as their seed."""
    grid = plan(folder, OWN_JOB.replace("width = 8", f"width = {width}") + SEEDS + more)
    for cell in grid.cells:
        finish(cell, lambda config, sigma: right + config.train.seed + (20 if config.train.noise_fraction else 0))
    return grid


def test_two_runs_are_paired_by_seed_with_what_differs(tmp_path):
    runs = {name: of_width(tmp_path / name, *of).run for name, of in {"a": (8, 900), "b": (16, 930)}.items()}
    built = compare(runs, tmp_path / "out")
    text = (tmp_path / "out" / "tables.md").read_text()
    assert "|  | a | b |" in text and "| train.width | 8 | 16 |" in text
    for fraction in ("0", "0.5"):
        label = f"b: noise fraction {fraction}, width 16 against a: width 8"
        gained = numbers(tmp_path / "out", "compared", row=label)
        assert gained["clean: right"] == pytest.approx(0.030) and gained["clean: mean IoU"] == pytest.approx(0.015)
    assert "**+3.00 ± 0.00**" in text
    (answer,) = [one for one in built.content.answers if one.where == "compared"]
    assert "+3.00 ± 0.00 points" in answer.text
    # The cells of both have their records linked, each in its own run.
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f"../{name}/cells/{collect(run).rows[0].id}/training.json" in page for name, run in runs.items())


def test_what_a_comparison_draws_and_says_has_the_name_of_the_run(tmp_path):
    grids = {name: of_width(tmp_path / name, 8, right) for name, right in (("a", 900), ("b", 930))}
    records = collect_to_compare({name: grid.run for name, grid in grids.items()})
    for name in ("epochs", "levels", "classes"):
        (legend,) = FIGURES[name](records).figure.legends
        texts = [text.get_text() for text in legend.get_texts()]
        assert texts == [f"{run}: {noise} % noise" for run in "ab" for noise in (0, 50)], name
        assert len({line.get_color() for line in legend.get_lines()}) == 4, name
    grids["b"].cells[0].folder.evaluation_file.unlink()
    finish(grids["b"].cells[1], lambda *_: 0)
    built = compare({name: grid.run for name, grid in grids.items()}, tmp_path / "out")
    assert "such as p000-s1 of b of class" in (tmp_path / "out" / "tables.md").read_text()
    assert built.content.holes and "was planned with" not in (tmp_path / "out" / "tables.md").read_text()


def test_two_seeds_have_a_difference_and_no_interval(tmp_path):
    runs = {name: of_width(tmp_path / name, *of) for name, of in {"a": (8, 900), "b": (16, 930)}.items()}
    for cell in runs["b"].cells:
        if cell.config.train.seed == 2:
            cell.folder.evaluation_file.unlink()
    compare({name: grid.run for name, grid in runs.items()}, tmp_path / "out")
    assert "+3.00 (n=2)" in (tmp_path / "out" / "tables.md").read_text()


def test_runs_of_other_data_are_refused(tmp_path):
    runs = {name: of_width(tmp_path / name, 8, 900) for name in ("a", "b")}
    write_plan(dataclasses.replace(runs["b"], data_sha256="e" * 64))
    with pytest.raises(ConfigError, match="a of dddddddd, b of eeeeeeee"):
        collect_to_compare({name: grid.run for name, grid in runs.items()})


def test_runs_that_were_computed_otherwise_are_said_to_be(tmp_path):
    runs = {name: of_width(tmp_path / name, width, 900).run for name, width in (("a", 8), ("b", 16))}
    for file in runs["b"].path.rglob("*.json"):
        content = json.loads(file.read_text())
        for stated in (content, content.get("provenance", {})):
            if "numerics" in stated:
                stated["numerics"] = NUMERICS + 1
        write_record(file, content)
    assert "a with numerics 7, b with numerics 8" in " ".join(collect_to_compare(runs).notes)


def test_a_cell_that_two_runs_share_is_in_both_and_gains_nothing_over_itself(tmp_path):
    both = of_width(tmp_path / "a", 8, 900)
    of_width(tmp_path / "b", 8, 900, "[[grid]]\ntrain.width = 16\n")
    records = collect_to_compare({"a": both.run, "b": RunFolder(tmp_path / "b")})
    assert len({row.id for row in records.rows}) == len(records.rows) == 7
    assert [group.of for group in records.groups] == ["a", "a", "b", "b", "b"]
    ((group, other),) = counterparts(records.groups)
    assert (group.config.train.width, other.of, other.config.train.noise_fraction) == (16, "a", 0.0)


@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
def test_a_cell_whose_records_differ_has_those_of_each_run_whichever_is_named_first(tmp_path, order):
    grids = {name: of_width(tmp_path / name, 8, right) for name, right in (("a", 900), ("b", 930), ("c", 900))}
    for cell in grids["c"].cells:
        cell.folder.evaluation_file.write_text("{")
    built = compare({name: grids[name].run for name in order}, tmp_path / "out")
    records = built.content.records
    assert len({row.id for row in records.rows}) == len(records.rows) == 18
    lines = [line for block in own.axes(records).blocks for line in block.lines if "against" not in line.label.text]
    right = {line.label.text[0]: line.cells[0].found for line in lines if line.label.text.endswith("fraction 0")}
    assert right["a"].mean == pytest.approx(0.901) and right["b"].mean == pytest.approx(0.931) and not right["c"]
    assert {hole.subject for hole in built.content.holes} >= {row.id for row in records.rows if not row.evaluation}


def test_variants_by_set_of_one_run_are_compared_though_its_job_lists_the_last_alone(tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr("sys.argv", ["hpcseg", "grid", "--job", "tiny.toml"])
    of_width(run, 8, 900)
    monkeypatch.setattr("sys.argv", ["hpcseg", "grid", "--job", "tiny.toml", "--set", "train.width=16"])
    of_width(run, 16, 930)
    records = collect_to_compare({"run": RunFolder(run)})
    assert len(collect(RunFolder(run)).rows) == 6 and len(records.rows) == 12
    assert [group.of for group in records.groups] == ["the job file's own"] * 2 + ["train.width=16"] * 2
    (_, gained) = compared(records).blocks
    assert [line.cells[0].found.mean for line in gained.lines] == pytest.approx([0.030, 0.030])


def test_one_run_of_one_setting_has_nothing_to_compare(tmp_path):
    one = OWN_JOB.replace("[0.0, 0.5]", "0.0")
    grid = tiny_run(tmp_path / "run", one)
    said = CliRunner().invoke(app, ["compare", str(grid.run.path), "-o", str(tmp_path / "out")])
    assert said.exit_code == 2 and "nothing to compare" in said.output and not (tmp_path / "out").exists()


def test_the_command_finds_runs_by_their_names_and_answers_a_script(tmp_path, monkeypatch):
    for name, width in (("a", 8), ("b", 16)):
        of_width(tmp_path / "runs" / name, width, 900)
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["compare", "a", "runs/b", "--json"])
    assert said.exit_code == 0, said.output
    answer = json.loads(said.stdout)
    assert answer["runs"] == ["runs/a", "runs/b"] and "comparison/report.html" in answer["written"]


def test_labels_name_what_varies_and_nothing_else(tmp_path):
    job = OWN_JOB.replace("[0.0, 0.5]", "0.0") + 'data.split = ["shuffled", "blocked"]\n'
    records = collect(tiny_run(tmp_path / "run", job).run)
    names = axes(records.groups)
    assert [axes_label(group, names) for group in records.groups] == ["split shuffled", "split blocked"]
    assert axes_label(records.groups[0], ()) == "all cells"
