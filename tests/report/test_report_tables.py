"""Table 1, Table 2 and the cells' table. Published numbers are typed in again from the paper."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from test_report_records import TINY_JOB, change, finish, plan, tiny_run

from hpcseg.report.build import build_report
from hpcseg.report.cells import cells_csv
from hpcseg.report.collect import Records, collect
from hpcseg.report.paper_tables import table1, table2, table_csv

BLOCKED = '[[grid]]\ndata.tiles = "small"\ndata.split = "blocked"\ntrain.noise_fraction = 0.5\n'


def lines(text: str, **wanted: str) -> list[dict[str, str]]:
    """The lines of a CSV that have these values."""
    return [line for line in csv.DictReader(io.StringIO(text)) if wanted.items() <= line.items()]


def document(grid, out: Path) -> str:
    build_report(grid.run, out)
    return (out / "tables.md").read_text()


def row_of(text: str, label: str) -> list[str]:
    """The numbers of the Markdown row with this label."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {label} |")]
    return [part.strip() for part in line.strip("|").split("|")[1:]]


def test_table1_takes_validation_and_clean_test_of_the_cells_without_noise(tmp_path):
    grid = tiny_run(tmp_path / "run")
    text = table_csv(table1(collect(grid.run)))

    (validation,) = lines(text, split="shuffled", tiles="small", set="validation")
    (test,) = lines(text, split="shuffled", tiles="small", set="test")
    # The paper: 0.990 and 0.968; ours: 990 and 968 of 1000 pixels.
    assert (validation["paper"], validation["ours"], validation["difference"]) == ("0.990", "0.990000", "0.000000")
    assert (test["paper"], test["ours"], test["difference"]) == ("0.968", "0.968000", "0.000000")
    assert test["sigma"] == "0"
    assert [line["status"] for line in lines(text, tiles="large")] == ["not in the job", "not in the job"]


def test_table2_has_ours_minus_the_papers(tmp_path):
    grid = plan(tmp_path / "run")
    for cell in grid.cells:
        finish(cell, lambda config, sigma: 850 if sigma == 5000.0 else (970 if config.train.noise_fraction else 990))
    text = document(grid, tmp_path / "out")

    # Paper: test (small) 0.844 at 0 % and 0.841 at 50 %; validation (small) 0.987 and 0.972.
    assert row_of(text, "test (small), paper") == ["0.844", "0.863", "0.841", "0.866", "0.869"]
    assert row_of(text, "test (small), ours") == ["0.850", "-", "0.850", "-", "-"]
    assert row_of(text, "validation (small), ours") == ["0.990", "-", "0.970", "-", "-"]
    (fifty,) = lines(table_csv(table2(collect(grid.run))), tiles="small", noise_fraction="0.5", set="test")
    assert (fifty["difference"], fifty["sigma"], fifty["status"]) == ("0.009000", "5000", "measured")
    assert "+0.006 | - | +0.009" in text
    assert "+0.003 | - | -0.002" in text


def test_a_position_without_a_cell_is_a_dash_and_no_hole(tmp_path):
    text = document(tiny_run(tmp_path / "run"), tmp_path / "out")

    assert row_of(text, "test (large), ours") == ["-"] * 5
    holes = text.split("## Holes")[1].split("##")[0]
    # The job has no large cell, so Figure 3 has half of its panels and Figure 7 nothing.
    assert "figure3" in holes and "figure7" in holes
    assert "cells/" not in holes and "hole 1" not in text


def test_a_deleted_evaluation_is_shown_as_a_hole_with_its_cell(tmp_path):
    grid = tiny_run(tmp_path / "run")
    cell = grid.cells[1]
    cell.folder.evaluation_file.unlink()
    text = document(grid, tmp_path / "out")

    assert row_of(text, "test (small), ours") == ["0.500", "-", "**hole 1**", "-", "-"]
    assert row_of(text, "validation (small), ours") == ["0.990", "-", "0.990", "-", "-"]
    assert f"1. `{cell.id}`: it is trained, but not evaluated. Run `hpcseg grid --job tiny`." in text
    (line,) = lines((tmp_path / "out" / "table2.csv").read_text(), status="hole")
    assert (line["set"], line["ours"], line["missing_cells"]) == ("test", "", cell.id)


def test_seeds_are_shown_with_an_interval_and_count(tmp_path):
    grid = plan(tmp_path / "run", TINY_JOB + "train.seed = [0, 1, 2]\n")
    for cell in grid.cells:
        finish(cell, lambda config, _: 900 + config.train.seed)
    grid.cells[2].folder.evaluation_file.unlink()
    text = document(grid, tmp_path / "out")

    # 0.900, 0.901, 0.902: sd 0.001, and t of 2 degrees of freedom is 4.303, over the root of 3: 0.0025. Two have none.
    assert row_of(text, "test (small), ours")[2] == "0.901 ± 0.002 (n=3)"
    assert row_of(text, "test (small), errors in %")[2] == "9.90 ± 0.25"
    assert row_of(text, "test (small), ours")[0] == "0.901 (n=2 of 3)"
    assert "Fewer than three repetitions have none" in text
    (line,) = lines((tmp_path / "out" / "table2.csv").read_text(), noise_fraction="0.5", set="test", tiles="small")
    assert (line["half_interval"], line["sd"], line["repetitions"]) == ("0.002484", "0.001000", "3")


def test_seeds_that_lie_far_apart_stand_one_by_one(tmp_path):
    grid = plan(tmp_path / "run", TINY_JOB + "train.seed = [0, 1, 2]\n")
    for cell in grid.cells:
        finish(cell, lambda config, _: (589, 42, 32)[config.train.seed])
    text = document(grid, tmp_path / "out")
    assert row_of(text, "test (small), ours")[0] == "0.589, 0.042, 0.032 (n=3)"
    assert row_of(text, "test (small), errors in %")[0] == "41.10, 95.80, 96.80"


def test_the_blocked_split_is_a_block_of_its_own_and_never_compared(tmp_path):
    grid = tiny_run(tmp_path / "run", TINY_JOB + BLOCKED)
    records = collect(grid.run)

    assert list(table1(records).blocks) == ["shuffled"]
    assert list(table2(records).blocks) == ["shuffled", "blocked"]
    blocked = lines(table_csv(table2(records)), split="blocked", status="measured")
    assert [(line["set"], line["ours"], line["paper"], line["difference"]) for line in blocked] == [
        ("test", "0.500000", "", ""),
        ("validation", "0.990000", "", ""),
    ]
    assert "Blocked split (not in the paper)" in document(grid, tmp_path / "out")


def test_an_ablation_does_not_move_the_tables(tmp_path):
    grid = plan(tmp_path / "run", TINY_JOB + '[[grid]]\ndata.tiles = "small"\ntrain.batch_norm = false\n')
    for cell in grid.cells:
        finish(cell, lambda config, _: 990 if config.train.batch_norm else 980)
    text = document(grid, tmp_path / "out")

    assert row_of(text, "accuracy, ours")[0] == "0.990"
    assert f"Not in Tables 1 and 2 and Figures 3 and 7, for their other settings: {grid.cells[2].id}." in text
    # It stays in the table of cells.
    assert row_of(text.split("Per class")[0], f"`{grid.cells[2].id}`")[1] == "0.980"


def test_a_cell_that_the_paper_has_no_place_for_is_named(tmp_path):
    grid = tiny_run(tmp_path / "run", TINY_JOB + '[[grid]]\ndata.tiles = "2x3"\n')
    text = document(grid, tmp_path / "out")

    assert f"Not in Tables 1 and 2 and Figures 3 and 7, for their other settings: {grid.cells[2].id}." in text
    assert row_of(text.split("Per class")[0], f"`{grid.cells[2].id}`")[1] == "0.990"


def test_the_caption_says_where_the_settings_are_not_the_papers(tmp_path):
    text = document(tiny_run(tmp_path / "run"), tmp_path / "out")
    assert "train.width 8 (paper 64)" in text
    assert "train.epochs 2 (paper 15)" in text
    assert "train.batch_size" not in text


def test_another_table_sigma_is_used_and_said(tmp_path):
    toml = TINY_JOB.replace("[evaluate]\n", "[evaluate]\ntable_sigma = 6000\n")
    grid = plan(tmp_path / "run", toml)
    for cell in grid.cells:
        finish(cell, lambda _, sigma: 777 if sigma == 6000.0 else 900)
    text = document(grid, tmp_path / "out")

    assert row_of(text, "test (small), ours")[0] == "0.777"
    assert "sigma 6000 counts" in text and "evaluate.table_sigma 6000 (paper 5000)" in text


def test_a_sigma_that_is_a_share_is_shown_as_one_everywhere(tmp_path):
    toml = TINY_JOB.replace("[evaluate]\n", '[evaluate]\ntable_sigma = "21 %"\n')
    grid = plan(tmp_path / "run", toml.replace("20000", '"84 %"').replace("10000", '"42 %"'))
    for cell in grid.cells:
        finish(cell, lambda _, sigma: 777 if sigma == "21 %" else 900)
    records = collect(grid.run)
    assert records.holes == ()
    text = document(grid, tmp_path / "out")
    assert row_of(text, "test (small), ours")[0] == "0.777"
    assert "The test noise has sigma 21 % of the span of the grey values." in text
    assert "evaluate.table_sigma 21 % (paper 5000)" in text
    assert ",test,21 %,measured," in (tmp_path / "out" / "table2.csv").read_text()
    assert f"{grid.cells[0].id},small,shuffled,0,0,test,gaussian-84 %,accuracy,,0.900000" in cells_csv(records)


def test_a_record_of_shares_without_the_span_that_they_are_of_is_a_hole(tmp_path):
    grid = plan(tmp_path / "run", TINY_JOB.replace("[evaluate]\n", '[evaluate]\ntable_sigma = "21 %"\n'))
    for cell in grid.cells:
        finish(cell, lambda *_: 900)
    change(grid.cells[0].folder.evaluation_file, grey=None)
    (hole,) = collect(grid.run).holes
    assert hole.subject == grid.cells[0].id and "its evaluation.json is damaged" in hole.reason


def test_cells_csv_has_one_measured_number_a_line_and_leaves_an_absent_class_empty(tmp_path):
    grid = tiny_run(tmp_path / "run")
    text = cells_csv(collect(grid.run))
    first = {"cell": grid.cells[0].id, "set": "test", "noise": "gaussian-0"}

    (accuracy,) = lines(text, **first, measure="accuracy")
    assert accuracy["value"] == "0.968000"
    assert (accuracy["precision"], accuracy["world_size"], accuracy["commit"]) == (
        "fp32",
        "2",
        "0123456789abcdef-dirty",
    )
    # 968 of 1000 pixels of class 0 right, 32 taken for class 1: IoU 968/1000 and 0/32, class 2 has neither.
    assert [line["value"] for line in lines(text, **first, measure="iou")] == ["0.968000", "0.000000", ""]
    # Dice of class 0: 2 * 968 / (1000 + 968) = 0.983740.
    assert [line["value"] for line in lines(text, **first, measure="dice")] == ["0.983740", "0.000000", ""]
    # The mean leaves the absent class out: (0.968 + 0) / 2.
    assert [line["value"] for line in lines(text, **first, measure="mean_iou")] == ["0.484000"]
    assert [line["value"] for line in lines(text, cell=grid.cells[0].id, measure="parameters")] == ["31043523"]


def test_a_hole_has_no_numbers_in_the_table_of_cells(tmp_path):
    grid = tiny_run(tmp_path / "run")
    change(grid.cells[0].folder.training_file, provenance={"numerics": 6})
    records: Records = collect(grid.run)

    assert lines(cells_csv(records), cell=grid.cells[0].id) == []
    text = document(grid, tmp_path / "out")
    assert set(row_of(text, f"`{grid.cells[0].id}` **hole 1**")) == {"shuffled", "-"}


def test_what_it_was_made_from_is_stated(tmp_path):
    text = document(tiny_run(tmp_path / "run"), tmp_path / "out")
    made = text.split("## What this was made from")[1]
    assert "d" * 64 in made and "numerics 7" in made
    # Two cells of 100.25 s each.
    for words in ("tiny: Tiny", "0123456-dirty", "node1", "2 of 2 finished", "| 200 s in all cells", "fp32"):
        assert words in made
