"""Table 1, Table 2 and the cells' table. Published numbers are typed in again from the paper."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path

from test_report_records import TINY_JOB, change, confusion, finish, plan, tiny_run

from hpcseg.records.cells import cells_csv
from hpcseg.records.collect import Records, collect
from hpcseg.report.answers import answers
from hpcseg.report.build import build_report
from hpcseg.report.paper_tables import table1, table2
from hpcseg.report.table import Block, Line, Number, Text, Unit, estimate_text, table_csv
from hpcseg.runs.record import SCHEMA, write_record
from hpcseg.statistics import Estimate, Repetition, estimate

BLOCKED = '[[grid]]\ndata.tiles = "small"\ndata.split = "blocked"\ntrain.noise_fraction = 0.5\n'


def lines(text: str, **wanted: str) -> list[dict[str, str]]:
    """The lines of a CSV that have these values."""
    return [line for line in csv.DictReader(io.StringIO(text)) if wanted.items() <= line.items()]


def document(grid, out: Path) -> str:
    build_report(grid.run, out)
    return (out / "tables.md").read_text()


def row_of(text: str, label: str, below: int = 0) -> list[str]:
    """The numbers of the first Markdown row with this label, or of one that stands below it."""
    rows = text.splitlines()
    place = next(place for place, line in enumerate(rows) if line.startswith(f"| {label} |"))
    return [part.strip() for part in rows[place + below].strip("|").split("|")[1:]]


def table2_of(records: Records, **wanted: str) -> list[dict[str, str]]:
    return lines(table_csv(table2(records)), **wanted)


SHUFFLED, OTHER = "shuffled split, as the paper's", "blocked split, not in the paper"


def test_table1_takes_validation_and_clean_test_of_the_cells_without_noise(tmp_path):
    grid = tiny_run(tmp_path / "run")
    text = table_csv(table1(collect(grid.run)))

    # The paper: 0.990 and 0.968; ours: 990 and 968 of 1000 pixels.
    for column, number in (("validation (small)", "0.990000"), ("test (small)", "0.968000")):
        for row in ("accuracy, paper", "accuracy, ours"):
            (line,) = lines(text, block=SHUFFLED, row=row, column=column)
            assert line["value"] == number
    assert lines(text, row="accuracy, ours", column="test (large)") == [], "not in the job"


def test_table2_has_ours_beside_the_papers_and_errors_in_per_cent(tmp_path):
    grid = plan(tmp_path / "run")
    for cell in grid.cells:
        finish(cell, lambda config, sigma: 850 if sigma == 5000.0 else (970 if config.train.noise_fraction else 990))
    text = document(grid, tmp_path / "out")

    # Paper: test (small) 0.844 at 0 % and 0.841 at 50 %; validation (small) 0.987 and 0.972.
    assert row_of(text, "test (small), paper") == ["0.844", "0.863", "0.841", "0.866", "0.869"]
    assert row_of(text, "test (small), ours") == ["0.850", "-", "0.850", "-", "-"]
    assert row_of(text, "test (small), ours", below=1) == ["15.00", "-", "15.00", "-", "-"]
    assert row_of(text, "validation (small), ours") == ["0.990", "-", "0.970", "-", "-"]
    assert "has sigma 5000 counts" in text


def test_what_needs_no_network_stands_below_the_tests(tmp_path):
    grid = tiny_run(tmp_path / "run")
    text = document(grid, tmp_path / "out")
    # All pixels are of class 0, and it is the commonest of validation.
    assert row_of(text, "test (small), ours", below=3)[0] == "0.00"
    assert row_of(text, "test (small), ours", below=2)[0].startswith("**hole ")
    assert "`baselines`: the filter of blur and grey thresholds was not measured" in text
    assert "hpcseg report --data FILE" in text

    baselines(grid, lambda sigma: 700 - int(sigma / 100))
    text = document(grid, tmp_path / "out")
    # 700 right of 1000 pixels, less 50 at sigma 5000.
    assert row_of(text, "test (small), ours", below=2) == ["35.00", "-", "35.00", "-", "-"]
    assert "`baselines`" not in text


def test_a_filter_of_other_settings_or_damaged_is_not_taken(tmp_path):
    grid = tiny_run(tmp_path / "run")
    for changed in (
        {"evaluate_seed": 1},
        {"data": {"tiles": "large"}},
        {"data_sha256": "6"},
        {"points": 3},
        {"schema": 3},
    ):
        baselines(grid, lambda _: 700, **changed)
        assert "`baselines`" in document(grid, tmp_path / "out"), changed


def test_levels_of_a_filter_may_lie_in_several_files_and_one_that_is_in_none_is_a_hole(tmp_path):
    grid = tiny_run(tmp_path / "run")
    baselines(grid, lambda sigma: 700 - int(sigma / 100))
    file = grid.run.path / "baselines" / "one.json"
    points = json.loads(file.read_text())["points"]
    change(file, points=[point for point in points if point["sigma"] != 5000.0])
    text = document(grid, tmp_path / "out")
    assert "`baselines`: the filter of blur and grey thresholds was not measured" in text
    assert row_of(text, "test (small), ours", below=2)[0].startswith("**hole ")

    shutil.copy(file, file.with_name("two.json"))
    change(file.with_name("two.json"), points=[point for point in points if point["sigma"] == 5000.0])
    text = document(grid, tmp_path / "out")
    assert row_of(text, "test (small), ours", below=2) == ["35.00", "-", "35.00", "-", "-"]
    assert "`baselines`" not in text


def test_a_filter_on_other_tiles_than_the_cells_is_said_to_be(tmp_path):
    grid = tiny_run(tmp_path / "run")
    said = "The filter was measured on the test tiles that this hpcseg draws."
    baselines(grid, lambda _: 700)
    assert said not in document(grid, tmp_path / "out")
    baselines(grid, lambda _: 700, split_sha256="6")
    assert said in document(grid, tmp_path / "out")


def test_the_answer_says_from_which_noise_on_a_filter_is_ahead(tmp_path):
    grid = plan(tmp_path / "run")
    for cell in grid.cells:
        finish(cell, lambda _, sigma: 980 - int((sigma or 0) / 100))
    baselines(grid, lambda _: 850)
    (answer,) = [one for one in answers(collect(grid.run)) if "filter" in one.question]
    # 980 right of 1000 less one per 100 counts: 930 at 5000, 880 at 10000, and 780 at 20000 are below 850.
    assert answer.text.startswith("2.00 % errors against the filter's 15.00 % at sigma 0; 7.00 % errors against")
    assert "; from sigma 20000 on the filter, which is fitted anew at each sigma, is ahead (" in answer.text


def test_each_training_has_its_own_noise_from_which_on_a_filter_is_ahead(tmp_path):
    grid = plan(
        tmp_path / "run", TINY_JOB.replace("sweep_step = 10000", "sweep_step = 5000") + "train.seed = [0, 1, 2]\n"
    )
    for cell in grid.cells:
        # Below 850 from 15000 on, and from 20000 on, where being behind at 10000 alone counts for nothing; and never.
        seed = cell.config.train.seed
        right = {0: {15000: 800, 20000: 700}, 1: {10000: 840, 20000: 700}, 2: {}}[seed]
        finish(cell, lambda _, sigma, right=right: right.get(sigma, 900))
    baselines(grid, lambda _: 850)
    (answer,) = [one for one in answers(collect(grid.run)) if "filter" in one.question]
    assert "; from a sigma between 15000 and 20000, by training, on the filter, which is fitted anew" in answer.text
    assert "is ahead of 2 of 3 trainings (" in answer.text


def test_a_setting_of_one_seed_does_not_speak_for_the_network_where_others_have_an_interval(tmp_path):
    grid = plan(tmp_path / "run", TINY_JOB.replace("[0.0, 0.5]", "[0.5, 0.25]") + "train.seed = [0, 1, 2]\n")
    for cell in grid.cells:
        if cell.config.train.noise_fraction == 0.5 or not cell.config.train.seed:
            finish(cell, lambda _, sigma: 900)
    baselines(grid, lambda _: 850)
    (answer,) = [one for one in answers(collect(grid.run)) if "filter" in one.question]
    assert answer.text.startswith("10.00 ± ") and answer.text.endswith("50 % noise).")


def test_trainings_without_a_sweep_are_none_that_a_filter_is_not_ahead_of(tmp_path):
    head, grids = TINY_JOB.split("[[grid]]")
    without = f"[[grid]]{grids}evaluate.sweep_max = 0.0\ntrain.seed = [1, 2]\n"
    grid = plan(tmp_path / "run", f"{head}[[grid]]{grids}{without}")
    for cell in grid.cells:
        finish(cell, lambda _, sigma: 980 - int((sigma or 0) / 100))
    baselines(grid, lambda _: 850)
    (answer,) = [one for one in answers(collect(grid.run)) if "filter" in one.question]
    assert "; from sigma 20000 on the filter, which is fitted anew at each sigma, is ahead (" in answer.text
    for cell in grid.cells:
        if cell.config.evaluate.sweep_max:
            cell.folder.evaluation_file.unlink()
    (answer,) = [one for one in answers(collect(grid.run)) if "filter" in one.question]
    assert "7.00 % errors against the filter's 15.00 % at sigma 5000 (" in answer.text


def baselines(grid, right, **changed) -> None:
    """Records of a filter with right(sigma) pixels of 1000 on the test set of a run."""
    points = [
        {"noise": level.model, "sigma": level.sigma, "fraction": level.fraction, "baseline": "filter",
         "confusion": confusion(right(level.sigma))}
        for level in grid.cells[0].config.evaluate.levels()
    ]  # fmt: skip
    content = {"schema": SCHEMA, "data": dataclasses.asdict(grid.cells[0].config.data), "evaluate_seed": 0}
    content |= {
        "data_sha256": grid.data_sha256,
        "grey": {},
        "filter": {},
        "provenance": {},
    }
    content |= {"split_sha256": "5", "class_values": [0, 128, 255], "points": points, **changed}
    (grid.run.path / "baselines").mkdir(exist_ok=True)
    write_record(grid.run.path / "baselines" / "one.json", content)


def test_a_position_without_a_cell_is_a_dash_and_no_hole(tmp_path):
    text = document(tiny_run(tmp_path / "run"), tmp_path / "out")

    assert row_of(text, "test (large), ours") == ["-"] * 5
    holes = text.split("## Holes")[1].split("##")[0]
    # The job has no large cell, so Figure 3 has half of its panels and Figure 7 nothing.
    assert "figure3" in holes and "figure7" in holes
    assert "cells/" not in holes


def test_repetitions_that_lack_the_same_are_told_as_one_hole_and_a_remedy_once(tmp_path):
    grid = plan(tmp_path / "run", TINY_JOB + "train.seed = [0, 1, 2]\n")
    finish(grid.cells[0], lambda *_: 900)
    text = document(grid, tmp_path / "out").split("## Holes")[1]
    assert text.count("Run `hpcseg grid --job tiny`.") == 1
    assert f"1. `{grid.cells[1].id}` and 1 repetition of it: it is not started.\n" in text
    assert f"2. `{grid.cells[3].id}` and 2 repetitions of it: it is not started.\n" in text
    assert f"\n3. `{grid.cells[4].id}" not in text


def test_a_model_that_finds_nothing_of_a_class_is_said_to(tmp_path):
    grid = plan(tmp_path / "run", TINY_JOB + "train.seed = [0, 1]\n")
    for cell in grid.cells:
        finish(cell, lambda config, _: 0 if config.train.seed else 900)
    said = "2 of 4 models find no pixel of a class that is in their test, such as p000-s1 of class 0"
    assert said in document(grid, tmp_path / "out")
    for cell in grid.cells:
        finish(cell, lambda *_: 1)
    assert "no pixel of a class" not in document(grid, tmp_path / "out")


def test_a_deleted_evaluation_is_shown_as_a_hole_with_its_cell(tmp_path):
    grid = tiny_run(tmp_path / "run")
    cell = grid.cells[1]
    cell.folder.evaluation_file.unlink()
    text = document(grid, tmp_path / "out")

    assert row_of(text, "test (small), ours") == ["0.500", "-", "**hole 1**", "-", "-"]
    assert row_of(text, "validation (small), ours") == ["0.990", "-", "0.990", "-", "-"]
    assert f"\nRun `hpcseg grid --job tiny`.\n\n1. `{cell.id}`: it is trained, but not evaluated.\n" in text
    found = lines((tmp_path / "out" / "table2.csv").read_text(), row="test (small), ours", column="50 %")
    assert [(line["value"], line["missing_cells"]) for line in found] == [("", cell.id)]


def test_seeds_are_shown_with_an_interval_and_count(tmp_path):
    grid = plan(tmp_path / "run", TINY_JOB + "train.seed = [0, 1, 2]\n")
    for cell in grid.cells:
        finish(cell, lambda config, _: 900 + config.train.seed)
    grid.cells[2].folder.evaluation_file.unlink()
    text = document(grid, tmp_path / "out")

    # 0.900, 0.901, 0.902: sd 0.001, and t of 2 degrees of freedom is 4.303, over the root of 3: 0.0025. Two have none.
    assert row_of(text, "test (small), ours")[2] == "0.901"
    assert row_of(text, "test (small), ours", below=1)[2] == "9.90 ± 0.25"
    assert row_of(text, "test (small), ours", below=1)[0] == "9.95 (n=2 of 3)"
    assert "Fewer than three repetitions, or one seed, have none" in text
    (line,) = lines((tmp_path / "out" / "table2.csv").read_text(), row="test (small), ours", column="50 %")
    assert (line["half_interval"], line["sd"], line["repetitions"]) == ("0.002484", "0.001000", "3")
    assert line["values"] == "0.900000 0.901000 0.902000"


def test_the_interval_of_a_share_ends_at_0_and_100_and_those_of_others_do_not():
    def written(unit: Unit, *values: float) -> str:
        found = estimate([Repetition(seed, 0, value) for seed, value in enumerate(values)])
        assert found is not None
        return estimate_text(found, unit)

    few = (0.10, 0.02, 0.06)  # 0.06 ± 0.099
    assert written(Unit.SHARE, *few) == "6.00 (0.00 to 15.94)"
    assert written(Unit.MULTIPLE, 1.06, 1.04, 1.05) == "1.050 ± 0.025"
    assert written(Unit.MULTIPLE, 1.01, 0.99, 0.97) == "0.990 ± 0.050"
    assert written(Unit.RATIO, 0.99, 0.98, 0.999) == "0.990 (0.966 to 1.000)"
    # How much surer than right: below 0 where a model is not sure enough.
    assert written(Unit.SIGNED, -0.15, -0.16, -0.17) == "-16.00 ± 2.48"
    assert written(Unit.SIGNED, 0.02, -0.02, -0.00003) == "0.00 ± 4.97"


def test_lines_say_their_repetitions_where_these_differ():
    def line(*numbers: int) -> Line:
        return Line(Text("x"), tuple(Number(Estimate((0.5,) * number), Unit.ERROR) for number in numbers))

    def said(*lines: Line) -> list[str]:
        block = Block("", ("a", "b"), lines, True)
        return [block.repetitions(one) for one in lines]

    assert said(line(3, 3), line(3, 3)) == ["", ""]
    assert said(line(3, 3), line(10, 10)) == [" (n=3)", " (n=10)"]
    assert said(line(10, 4), line(10, 4)) == [" (n=10, 4)", " (n=10, 4)"], "columns differ"
    assert Block("", ("a", "b"), (line(3, 3), line(1, 1))).repetitions(line(1, 1)) == "", "published numbers have none"


def test_seeds_that_lie_far_apart_stand_one_by_one(tmp_path):
    grid = plan(tmp_path / "run", TINY_JOB + "train.seed = [0, 1, 2]\n")
    for cell in grid.cells:
        finish(cell, lambda config, _: (589, 42, 32)[config.train.seed])
    text = document(grid, tmp_path / "out")
    assert row_of(text, "test (small), ours")[0] == "0.589, 0.042, 0.032"
    assert row_of(text, "test (small), ours", below=1)[0] == "41.10, 95.80, 96.80"


def test_the_blocked_split_is_a_block_of_its_own_and_never_compared(tmp_path):
    grid = tiny_run(tmp_path / "run", TINY_JOB + BLOCKED)
    records = collect(grid.run)

    assert [block.heading for block in table1(records).blocks] == [SHUFFLED]
    assert [block.heading for block in table2(records).blocks] == [SHUFFLED, OTHER]
    assert [line["row"] for line in table2_of(records, block=OTHER) if "paper" in line["row"]] == []
    (ours,) = table2_of(records, block=OTHER, row="test (small), ours")
    assert (ours["column"], ours["value"]) == ("50 %", "0.500000")


def test_an_ablation_does_not_move_the_tables(tmp_path):
    grid = plan(tmp_path / "run", TINY_JOB + '[[grid]]\ndata.tiles = "small"\ntrain.batch_norm = false\n')
    for cell in grid.cells:
        finish(cell, lambda config, _: 990 if config.train.batch_norm else 980)
    text = document(grid, tmp_path / "out")

    assert row_of(text, "accuracy, ours")[0] == "0.990"
    assert f"Not in Tables 1 and 2 and Figures 3 and 7 (see report.cells of the job file): {grid.cells[2].id}." in text


def test_a_cell_that_the_paper_has_no_place_for_is_named(tmp_path):
    grid = tiny_run(tmp_path / "run", TINY_JOB + '[[grid]]\ndata.tiles = "2x3"\n')
    text = document(grid, tmp_path / "out")

    assert f"Not in Tables 1 and 2 and Figures 3 and 7 (see report.cells of the job file): {grid.cells[2].id}." in text


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
    # Of what is taken for class 0 all is right, of what is taken for class 1 nothing.
    assert [line["value"] for line in lines(text, **first, measure="precision")] == ["1.000000", "0.000000", ""]
    # The mean leaves the absent class out: (0.968 + 0) / 2.
    assert [line["value"] for line in lines(text, **first, measure="mean_iou")] == ["0.484000"]
    assert [line["value"] for line in lines(text, cell=grid.cells[0].id, measure="parameters")] == ["31043523"]


def test_a_hole_has_no_numbers_in_the_csv_of_cells(tmp_path):
    grid = tiny_run(tmp_path / "run")
    change(grid.cells[0].folder.training_file, provenance={"numerics": 6})
    assert lines(cells_csv(collect(grid.run)), cell=grid.cells[0].id) == []


def test_what_it_was_made_from_is_stated(tmp_path):
    text = document(tiny_run(tmp_path / "run"), tmp_path / "out")
    made = text.split("## What this was made from")[1]
    assert "d" * 64 in made and "numerics 7" in made
    # Two cells of 100.25 s, evaluated in 2 s, on two ranks each of one thread: 409 s are 0.11 hours.
    for words in ("tiny: Tiny", "0123456789abcdef-dirty", "node1", "2 of 2 finished", "0.11 core hours", "fp32"):
        assert words in made
