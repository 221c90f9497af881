"""The answers that open a report, and the table of readings: each follows from planted records."""

from __future__ import annotations

import numpy as np
import pytest
from test_report_groups import JOB, column, finish_with_slices, labels, marked, split_run
from test_report_records import OWN_JOB, change, finish, plan, tiny_run

from hpcseg.records.collect import collect
from hpcseg.report.answers import answers
from hpcseg.report.curves import learning_curve
from hpcseg.report.readings import readings_drawn
from hpcseg.report.tables import TABLES


def told(run, *names: str) -> list[str]:
    return [answer.text for answer in answers(collect(run)) if not names or answer.question in names]


def asking(job: str, *questions: str) -> str:
    return f"{job}[report]\nquestions = {list(questions)}\n".replace("'", '"')


def without_report(job: str) -> str:
    return job.partition("[report]")[0], "[[grid]]" + job.partition("[[grid]]")[2]


def planned(tmp_path, questions, *, grid=JOB):
    head, grids = without_report(grid)
    return plan(tmp_path / "run", asking(head, *questions) + grids)


def test_a_job_names_its_answers_and_own_words_stand_before_them(tmp_path):
    grid = tiny_run(tmp_path / "run", asking(OWN_JOB.partition("[[grid]]")[0], "Why?", "reproduced") + SMALL)
    own, ours = answers(collect(grid.run))
    assert (own.question, own.text) == ("Why?", "")
    assert ours.question == "How near are these numbers to the paper's?" and ours.where == "table2"


SMALL = '[[grid]]\ndata.tiles = "small"\ntrain.noise_fraction = [0.0, 0.5]\n'


def test_without_a_choice_the_answers_are_those_of_the_jobs_tables(tmp_path):
    found = {answer.where for answer in answers(collect(tiny_run(tmp_path / "run").run))}
    assert found == {"table2"}, "tables 1 and 2 are the default"


def test_the_distance_to_the_paper_is_counted(tmp_path):
    grid = tiny_run(tmp_path / "run")
    # Validation 0.990 (0.990, 0.987, 0.972), clean 0.968 (0.968), noisy 0.500 (0.844, 0.841): the first three are near.
    (text,) = told(grid.run, "How near are these numbers to the paper's?")
    assert text == "3 of 6 are within a point of the paper's; farthest is Table 2, test (small), 0 %: 0.500 (0.844)."


def test_the_slope_of_clean_accuracy_has_its_interval_and_one_seed_has_none(tmp_path):
    job = JOB.replace("[0.0, 0.5]", "[0.0, 0.5, 1.0]")
    grid = planned(tmp_path, ["clean"], grid=job)
    for cell in grid.cells:
        # Lines of 20, 22 and 24 right pixels less at 100 %.
        right = 950 - round((20 + 2 * cell.config.train.seed) * cell.config.train.noise_fraction)
        finish_with_slices(cell, lambda *_, right=right: right)
    (text,) = told(grid.run)
    # Slopes of -2.0, -2.2 and -2.4 points: sd 0.2, t of 2 degrees of freedom is 4.303, over the root of 3: 0.50.
    assert text.startswith("-2.20 ± 0.50 points of accuracy per 100 % of noisy training tiles")
    for cell in grid.cells[1::3] + grid.cells[2::3]:
        cell.folder.evaluation_file.unlink()
    (text,) = told(grid.run)
    assert text.startswith("-2.00 points (fewer than three repetitions, or one seed, have no interval")


def test_the_best_share_of_noise_is_named_only_where_it_is_shown(tmp_path):
    job = JOB.replace("[0.0, 0.5]", "[0.0, 0.25, 0.5, 1.0]")
    grid = planned(tmp_path, ["mixed"], grid=job + "train.weight_decay = [0.0, 0.1]\n")
    for cell in grid.cells:
        seed, share = cell.config.train.seed, cell.config.train.noise_fraction
        if cell.config.train.weight_decay and share in (0.0, 0.5):
            # Under way: in a mean over what only some shares have they would not stand on equal terms.
            finish_with_slices(cell, lambda *_: 500)
        if cell.config.train.weight_decay:
            continue
        # 50 % is 1, 3 and -1 of 1000 ahead of 25 %, which chance may turn; 100 % is 100 behind in every seed.
        right = {0.0: 600, 0.25: 950, 0.5: 950 + (1, 3, -1)[seed], 1.0: 850}[share] + 2 * seed
        finish_with_slices(cell, lambda *_, right=right: right)
    (text,) = told(grid.run)
    assert text.startswith("25, 50 % of noisy tiles cannot be told apart; 50 % against none: +35.1")
    assert "0 %: 39.80 ± " in text and "100 %: 14.80 ± " in text


def test_what_a_shuffled_split_flatters_is_matched_on_the_same_slices(tmp_path):
    head, grids = without_report(JOB)
    grid = split_run(tmp_path / "run", asking(head, "split") + grids)
    (text,) = told(grid.run)
    # 20 of 1000 less in both halves; one slice in common says nothing of others, so there is no interval.
    assert text.startswith("Blocked against shuffled, clean, on the slices that both test: -2.00 points")
    assert "11.80 ± " in text and "(small, blocked, 0 % noise)" in text


def test_as_long_as_the_large_tiles_are_only_planned_answers_are_about_the_small_ones(tmp_path):
    head, grids = without_report(JOB)
    large = grids.replace('data.tiles = "small"', 'data.tiles = "large"\ndata.split = ["shuffled", "blocked"]')
    both = split_run(tmp_path / "both", asking(head, "split", "classes") + grids + large)
    for cell in both.cells:
        if cell.config.data.tiles == "large":
            cell.folder.evaluation_file.unlink()
    apart, recall = told(both.run)
    assert "(small, blocked, 0 % noise)" in apart and "stretch:  (" not in apart
    assert recall.startswith("Recall on test tiles with noise of sigma 5000 (small, ")


def test_recall_that_lies_in_two_groups_is_told_seed_by_seed(tmp_path):
    grid = planned(tmp_path, ["classes"])
    for cell in grid.cells:
        noisy = (950, 450, 440)[cell.config.train.seed] if not cell.config.train.noise_fraction else 950
        finish_with_slices(cell, lambda _, key, noisy=noisy: 950 if key == "gaussian-0" else noisy)
    (text,) = told(grid.run)
    # Class 0 has 600 of 1000 pixels, and the wrong ones are all of it: 550, 50 and 40 are found.
    assert text.startswith("Recall on test tiles with noise of sigma 5000 (")
    assert "trained with 0 % noise, class 0: 0.917, 0.083, 0.067, 128: 1.000" in text
    assert "trained with 50 % noise, class 0: 0.917 ± 0.000" in text


def test_another_setting_is_compared_at_every_noise_and_corrected(tmp_path):
    other = '[[grid]]\ndata.tiles = "small"\ntrain.batch_norm = false\ntrain.seed = [0, 1, 2]\n'
    grid = planned(tmp_path, ["batch_norm"], grid=JOB + other)
    for cell in grid.cells:
        ahead = 100 if not cell.config.train.batch_norm else 0
        jitter = (1, 3, -1)[cell.config.train.seed] if ahead else 0
        finish_with_slices(cell, lambda _, key, a=ahead, j=jitter: 800 + (a if key == "gaussian-5000" else j))
    (text,) = told(grid.run)
    assert text.startswith("Shown of 4 comparisons with train.batch_norm = true, corrected for their number: ")
    assert "false at gaussian-5000 +10.00 ± 0.00 points; not the others, at most " in text


@pytest.mark.parametrize(("finished", "against"), [((8, 32), 32), ((8, 64), 64)])
def test_where_no_cell_has_the_default_the_nearest_that_is_tested_is_compared_with(tmp_path, finished, against):
    axis = "[[grid]]\ntrain.width = [8, 16, 32, 64]\ntrain.seed = [0, 1, 2]\n"
    job = '[data]\ntiles = "small"\n[evaluate]\nwhole_slices = true\ntable_sigma = 5000\n'
    grid = plan(tmp_path / "run", asking(job, "width") + axis)
    for cell in grid.cells:
        if cell.config.train.width in finished:
            right = 700 if cell.config.train.width == 8 else 900
            finish_with_slices(cell, lambda _, key, r=right, s=cell.config.train.seed: r + (s if r == 900 else 0))
    (text,) = told(grid.run)
    assert f" comparisons with train.width = {against}" in text and "8 at gaussian-0 -20." in text


def of_widths(tmp_path, *widths: int, right, question="width", **lines):
    """Three seeds at each width, of right(width, seed) pixels of 1000."""
    axis = f"[[grid]]\ntrain.width = {list(widths)}\ntrain.seed = [0, 1, 2]\n"
    grid = plan(tmp_path / "run", asking('[data]\ntiles = "small"\n', question) + axis)
    for cell in grid.cells:
        train = cell.config.train
        finish_with_slices(cell, lambda *_, train=train: right(train.width, train.seed), **lines)
    return grid


def test_a_comparison_without_an_interval_is_no_part_of_a_bound(tmp_path):
    grid = of_widths(
        tmp_path, 8, 16, 64, right=lambda width, seed: 900 + (seed * (width != 64) if width > 8 else 3 * seed)
    )
    for cell in grid.cells:
        if cell.config.train.width == 16 and cell.config.train.seed:
            cell.folder.evaluation_file.unlink()
    (text,) = told(grid.run)
    assert text.startswith(
        "Not shown in any of 2 comparisons with train.width = 64, corrected for their number, at most "
    )
    assert "points; of 2 more it is not known (fewer than three repetitions, or one seed, have no interval" in text


@pytest.mark.parametrize(("slices", "seeds", "why"), [((3,), 3, "one test slice"), ((3, 7), 2, "fewer than three")])
def test_what_has_no_interval_says_why(tmp_path, slices, seeds, why):
    for question, start in (("width", "Not known of 2 comparisons with"), ("chance", "It is not known here")):
        grid = of_widths(tmp_path / question, 8, 64, right=lambda *of: 890 + sum(of), question=question, slices=slices)
        for cell in grid.cells:
            if cell.config.train.seed >= seeds:
                cell.folder.evaluation_file.unlink()
        (text,) = told(grid.run)
        assert text.startswith(start) and f" ({why}" in text


def test_repetitions_that_are_all_alike_have_an_interval(tmp_path):
    for question in ("chance", "width"):
        grid = of_widths(tmp_path / question, 8, 64, right=lambda width, _: 800 + width, question=question)
        (text,) = told(grid.run)
        assert "known" not in text and "interval" not in text


def test_with_one_seed_the_best_share_of_noise_is_not_said_to_be_level_with_others(tmp_path):
    job = JOB.replace("[0.0, 0.5]", "[0.0, 0.25, 0.5, 1.0]").replace("[0, 1, 2]", "0")
    grid = planned(tmp_path, ["mixed"], grid=job)
    for cell in grid.cells:
        right = {0.0: 600, 0.25: 940, 0.5: 950, 1.0: 850}[cell.config.train.noise_fraction]
        finish_with_slices(cell, lambda *_, right=right: right)
    (text,) = told(grid.run)
    assert text.startswith(
        "50 % of noisy tiles has the fewest errors; 50 % against none: +35.00 points (fewer than three"
    )
    assert "told apart" not in text and "100 %: 15.00" in text


READINGS = """
[train]
width = 8
epochs = 1
[evaluate]
other_noise = "uniform"
[report]
tables = ["readings"]
figures = []
[[grid]]
train.noise_fraction = [0.0, 0.25, 0.5, 0.75, 1.0]
train.seed = [0, 1, 2]
[[grid]]
train.weight_decay = 0.1
train.noise_fraction = [0.0, 0.25, 0.5, 0.75, 1.0]
train.seed = [0, 1, 2]
"""
PAPER = {0.0: 844, 0.25: 863, 0.5: 841, 0.75: 866, 1.0: 869}


def test_readings_stand_beside_the_papers_row_and_the_nearest_is_the_answer(tmp_path):
    grid = plan(tmp_path / "run", READINGS)
    for cell in grid.cells:
        finish(cell, lambda *_: 900)
        exact = cell.config.train.weight_decay > 0

        def right(config, key, exact=exact):
            published = PAPER[config.train.noise_fraction]
            if key == "gaussian-0":
                return 968
            return published if exact and key == "uniform-5000" else published + 30

        finish_with_slices(cell, right)
    records = collect(grid.run)
    table = TABLES["readings"](records)
    assert [block.heading for block in table.blocks] == ["gaussian-5000", "uniform-5000"]
    assert labels(table, 1) == ["paper", "as here", "train.weight_decay = 0.1"]
    assert [text[:5] for text in column(table, "50 %", 1)] == ["0.841", "0.871", "0.841"]
    # Five of six numbers are 0.03 away: the root of 5/6 times 0.03.
    assert column(table, "distance", 1) == ["-", f"{0.03 * np.sqrt(5 / 6):.3f}", "0.000"]
    assert marked(table, "distance", 0) == [False] * 3 and marked(table, "distance", 1) == [False, False, True]
    (panel,) = readings_drawn(records).figure.axes
    assert [text.get_text() for text in panel.get_yticklabels()] == ["as here", "train.weight_decay = 0.1"]
    assert [text.get_text() for text in panel.get_xticklabels()] == ["gaussian-5000", "uniform-5000"]
    by_test = [column(table, "distance", block)[1:] for block in (0, 1)]
    assert [text.get_text() for text in panel.texts] == [one for row in zip(*by_test, strict=True) for one in row]
    # The one whose intervals hold all six numbers.
    assert [patch.get_xy() for patch in panel.patches] == [(1, 1)]
    (text,) = told(grid.run)
    assert text.startswith(
        "train.weight_decay = 0.1, uniform-5000: 0.968, 0.844, 0.863, 0.841, 0.866, 0.869, which is 0.000"
    )
    assert text.endswith(
        "as here 0.027. All six lie inside of the intervals of: train.weight_decay = 0.1, uniform-5000 (0.000)."
    )


@pytest.mark.parametrize("gone", [0, 4])
def test_a_reading_with_fewer_than_three_seeds_somewhere_has_no_distance(tmp_path, gone):
    grid = plan(tmp_path / "run", READINGS)
    for cell in grid.cells:
        finish_with_slices(cell, lambda *_: 900)
    grid.cells[gone].folder.evaluation_file.unlink()
    assert column(TABLES["readings"](collect(grid.run)), "distance")[:2] == ["-", "-"]
    (panel,) = readings_drawn(collect(grid.run)).figure.axes
    assert len(panel.texts) == 2, "the other reading, in both tests"


def told_of_slices(tmp_path, right: int, slices: int) -> str:
    """What is told of 4, 8 and all slices of so many, of whose 1000 pixels 900, 940 and so many are right in seed 0."""
    job = JOB.replace('other_noise = "uniform"', "whole_slices = true").replace("[0.0, 0.5]", "0.0")
    job += '[[grid]]\ndata.tiles = "small"\ndata.train_slices = [4, 8]\ntrain.seed = [0, 1, 2]\n'
    grid = planned(tmp_path, ["slices"], grid=job)
    for cell in grid.cells:
        found = {4: 900, 8: 940, 0: right}[cell.config.data.train_slices] + cell.config.train.seed
        finish_with_slices(cell, lambda *_: 900, whole=(found, found))
        change(cell.folder.training_file, train_slices=cell.config.data.train_slices or slices)
    (text,) = told(grid.run)
    return text


def test_what_the_next_labelled_slices_bring_follows_from_the_last_two_numbers(tmp_path):
    text = told_of_slices(tmp_path, right=960, slices=16)
    assert "From 4 labelled slices to all: +6.00" in text
    # 2 points from 8 to 16, which is twice as many; 10 more are log2(26 / 16) = 0.70 of that.
    assert text.endswith("If it goes on as from 8 to 16, 10 more bring +1.40 points.")


def test_slices_that_bring_nothing_more_bring_no_minus_zero(tmp_path):
    text = told_of_slices(tmp_path, right=939, slices=1000)
    # -0.1 points from 8 to 1000; 10 more are 0.002 of that.
    assert text.endswith("10 more bring +0.00 points.")


def test_the_most_labelled_slices_that_were_asked_for_are_not_called_all(tmp_path):
    job = JOB.partition("[[grid]]")[0].replace('other_noise = "uniform"', "whole_slices = true")
    job += '[[grid]]\ndata.tiles = "small"\ndata.train_slices = [1, 3]\ntrain.seed = [0, 1, 2]\n'
    grid = planned(tmp_path, ["slices"], grid=job)
    for cell in grid.cells:
        right = {1: 900, 3: 940}[cell.config.data.train_slices] + cell.config.train.seed
        finish_with_slices(cell, lambda *_: 900, whole=(right, right))
        change(cell.folder.training_file, train_slices=cell.config.data.train_slices)
    (text,) = told(grid.run)
    assert "From 1 labelled slice to 3: +4.00" in text


def test_a_share_of_the_labels_is_compared_with_all_and_drawn_at_as_many_slices(tmp_path):
    job = JOB.replace('other_noise = "uniform"', "whole_slices = true").replace("[0.0, 0.5]", "0.0")
    job += '[[grid]]\ndata.tiles = "small"\ndata.label_share = 0.25\ntrain.seed = [0, 1, 2]\n'
    grid = planned(tmp_path, ["label_share"], grid=job)
    for cell in grid.cells:
        right = (960 if cell.config.data.label_share == 1 else 930) + cell.config.train.seed
        finish_with_slices(cell, lambda *_: 900, whole=(right, right))
        change(cell.folder.training_file, train_slices=cell.config.data.train_slices or 16)
    (text,) = told(grid.run)
    assert text.startswith("Shown of 1 comparison with data.label_share = 1, corrected for their number: 0.25 at")
    assert "others" not in text
    assert "-3.00" in text
    drawn = learning_curve(collect(grid.run)).figure.axes[0]
    assert [sorted({float(x) for x in line.get_xdata()}) for line in drawn.lines] == [[4.0, 16.0]]
    assert "part of the pixels of 16 slices" in drawn.get_legend().get_texts()[0].get_text()
