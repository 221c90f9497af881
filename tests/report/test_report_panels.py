"""The figures of slices and tiles, from the pictures that an evaluation kept."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from run_here import run_here

from hpcseg.data.classes import IGNORED
from hpcseg.data.pack import pack
from hpcseg.data.sample import write_sample
from hpcseg.data.store import read_info
from hpcseg.records.collect import collect
from hpcseg.report import pictures as report_pictures
from hpcseg.report.build import compare, publish
from hpcseg.report.figures import draw
from hpcseg.report.pictures import PICTURES
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.record import write_record

NAMES = ("figure1", "figure4", "figure5", "figure6", "figure8", "figure9")
JOB = """
[data]
tiles = "large"
tile_size = 16
split = "blocked"
[train]
width = 2
depth = 2
epochs = 1
batch_size = 64
precision = "fp32"
[evaluate]
table_sigma = "21 %"
whole_slices = true
examples = true
[report]
tables = []
figures = ["figure1", "figure4", "figure5", "figure6", "figure8", "figure9"]
[[grid]]
train.noise_fraction = 0.5
[[grid]]
train.weight_decay = 1e-2
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    folder = tmp_path_factory.mktemp("panels")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("pictures.toml").write_text(JOB)
        write_sample(folder, slices=16, size=50, seed=0)
        pack(Path("data"), Path("labels"), Path("dataset.h5"), command="test")
        run_here("pictures.toml")
    return RunFolder(folder / "runs" / "pictures")


@pytest.mark.parametrize("name", (*NAMES, "best_and_worst"))
def test_every_figure_is_drawn_and_the_same_records_give_the_same_bytes(run, name):
    once, again = (draw(name, collect(run)) for _ in range(2))
    assert once.holes == ()
    assert once.files == again.files
    picture = matplotlib.image.imread(io.BytesIO(once.files["png"]))
    # Not one flat colour: slices have black, grey and white in them.
    assert picture[..., 0].std() > 0.1


def test_the_figures_say_what_they_show(run):
    records = collect(run)
    accuracies = [row.test_accuracy(row.config.evaluate.levels()[1]) for row in records.rows]
    assert f"{accuracies[0]:.3f} noisy" in draw("figure6", records).caption
    assert f"{accuracies[1]:.3f} noisy" in draw("figure8", records).caption


def test_the_captions_say_which_model_it_is_and_that_the_papers_is_another(run, tmp_path):
    # No cell here is without noise and weight decay, so one with noise stands in, and is not taken for the paper's.
    caption = draw("figure4", collect(run)).caption
    assert "Model: large, blocked, 50 % noise, seed 0" in caption
    assert "The paper shows its model without noise in training; none keeps pictures here." in caption
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    plan = json.loads((copy / "grid.json").read_text())
    plan["cells"] = [cell for cell in plan["cells"] if cell["train"]["weight_decay"]]
    write_record(copy / "grid.json", plan)
    caption = draw("figure9", collect(RunFolder(copy))).caption
    assert "Model: large, blocked, 0 % noise" in caption and "The paper shows" not in caption


@pytest.mark.parametrize(
    "split, said", [("blocked", ""), ("shuffled", " Other tiles of this slice may have been trained on.")]
)
def test_a_whole_slice_says_where_its_model_may_have_seen_of_it(run, tmp_path, split, said):
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    for file in (copy / "grid.json", *copy.glob("cells/*/config.json")):
        content = json.loads(file.read_text())
        for cell in content.get("cells", [content]):
            cell["data"]["split"] = split
        write_record(file, content)
    caption = draw("figure9", collect(RunFolder(copy))).caption
    assert caption.count("noisy).") == 1 and caption.partition("noisy).")[2].startswith(said or " The paper")


def test_the_best_and_the_worst_slice_stand_under_each_other_with_their_shares(run):
    records = collect(run)
    figure = PICTURES["best_and_worst"](records).figure
    named = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert [text.split()[0] for text in named] == ["best:", "worst:"]
    row = max(records.rows, key=lambda row: row.test_accuracy(row.config.evaluate.levels()[0]))
    numbers = [f"slice {number}" for number in row.pictures(extremes=True)["numbers"]]
    assert [text.split(": ")[1] for text in named] == numbers


def test_a_run_of_before_they_were_kept_lacks_them_and_says_how_to_have_them(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    for file in copy.rglob("extremes.npz"):
        file.unlink()
    (hole,) = draw("best_and_worst", collect(RunFolder(copy))).holes
    assert "extremes.npz" in hole.reason and "Delete its evaluation.json" in hole.remedy


def test_where_a_model_is_elsewhere_nobody_is_told_to_delete_its_evaluation(run, tmp_path):
    published, out = RunFolder(tmp_path / "published"), tmp_path / "out"
    publish(run, published.path)
    for file in published.path.rglob("examples.npz"):
        file.unlink()
    for name in ("best_and_worst", "figure4"):
        (hole,) = draw(name, collect(published)).holes
        assert ".npz" in hole.reason and "Delete" not in hole.remedy
    compare({"a": published, "b": run}, out)
    tables = (out / "tables.md").read_text()
    assert "Delete" not in tables and "best_and_worst" not in tables


def test_one_cell_without_its_pictures_leaves_the_figure_to_the_others(run, tmp_path):
    copy = RunFolder(tmp_path / "run")
    shutil.copytree(run.path, copy.path)
    first = next(row for row in collect(copy).rows if not row.config.train.weight_decay)
    first.cell.folder.examples_file.unlink()
    assert draw("figure4", collect(run)).caption.startswith("Model: large, blocked, 50 % noise")
    assert draw("figure4", collect(copy)).caption.startswith("Model: large, blocked, 0 % noise, weight decay")


def test_a_picture_is_a_png_and_the_page_has_what_is_smallest(run):
    for name in NAMES:
        picture = draw(name, collect(run))
        assert sorted(picture.files) == ["png"] and picture.kind in ("png", "webp")
        assert len(picture.content) <= len(picture.files["png"])


def test_sigmas_that_are_shares_are_shown_as_shares(run):
    records = collect(run)
    drawn = PICTURES["figure5"](records)
    caption = draw("figure5", records).caption
    assert "Sigma is in shares of the span of grey values" in caption
    low, high = np.percentile(records.rows[0].pictures()["slice"], (0.5, 99.5))
    margin = (high - low) / 10
    assert f"{low - margin:,.0f} to {high + margin:,.0f}: what is darker or brighter is cut off" in caption
    # The paper's 0, 5000, 10000, 20000 and 30000 are so many times the 5000 of its table.
    assert [axes.get_title() for axes in drawn.figure.axes] == ["0 %", "21 %", "42 %", "84 %", "126 %"]
    assert PICTURES["figure6"](records).figure.axes[0].get_title() == "input, sigma 21 %"


def test_the_noise_of_a_picture_is_that_share_of_the_span_of_the_data(run):
    pictures = [axes.images[0].get_array() for axes in PICTURES["figure5"](collect(run)).figure.axes]
    low, high = read_info(run.path.parents[1] / "dataset.h5").grey.quantiles
    # 50 x 50 pixels: the standard error of a standard deviation is 1 / sqrt(5000) of it.
    assert (pictures[1] - pictures[0]).std() == pytest.approx(0.21 * (high - low), rel=4 / np.sqrt(5_000))


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:99])])
def test_pictures_that_are_gone_or_damaged_are_a_hole(run, damage):
    cells = [row.cell for row in collect(run).rows]
    kept = {cell: cell.folder.examples_file.read_bytes() for cell in cells}
    try:
        for cell in cells:
            damage(cell.folder.examples_file)
        for name in NAMES:
            picture = draw(name, collect(run))
            (hole,) = picture.holes
            assert picture.files == {}
            assert hole.subject == name and "examples.npz" in hole.reason
    finally:
        for cell, content in kept.items():
            cell.folder.examples_file.write_bytes(content)


def test_the_kept_arrays_hold_no_objects(run):
    for row in collect(run).rows:
        with np.load(row.cell.folder.examples_file, allow_pickle=False) as file:
            assert all(file[name].dtype.kind in "uif" for name in file.files)


@pytest.mark.parametrize(("name", "panels"), [("figure1", {1}), ("figure4", {1, 2}), ("figure9", {1, 2})])
def test_a_class_has_one_shade_in_every_label_and_prediction(run, monkeypatch, name, panels):
    """Three classes are black, grey and white; of five each picture has those three, of which none is the last."""
    assert {report_pictures._classes_of(row) for row in collect(run).rows} == {3}
    for classes in (3, 5):
        monkeypatch.setattr(report_pictures, "_classes_of", lambda _, classes=classes: classes)
        axes = PICTURES[name](collect(run)).figure.axes
        columns = 2 if name == "figure1" else 4
        shown = {axis.images[0].get_clim() for place, axis in enumerate(axes) if place % columns in panels}
        assert shown == {(0, classes - 1)}


def test_pixels_without_a_class_have_a_colour_and_a_name_of_their_own(run, tmp_path, monkeypatch):
    row = next(row for row in collect(run).rows if row.evaluation)
    pictures = {name: array.copy() for name, array in row.pictures(extremes=True).items()}
    fill = report_pictures._best_and_worst
    assert "no class" not in [text.get_text() for text in fill(row, pictures).legends[0].get_texts()]
    pictures["labels"][:, :20] = IGNORED
    figure = fill(row, pictures)
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "no class"
    FigureCanvasAgg(figure).draw()
    canvas = np.asarray(figure.canvas.buffer_rgba())
    colour = np.round(255 * np.array(to_rgb(report_pictures._NO_CLASS)))
    panel = figure.axes[1].get_window_extent()
    found = np.argwhere((abs(canvas[..., :3] - colour) <= 1).all(-1))
    inside = (found[:, 1] > panel.x0) & (found[:, 1] < panel.x1)
    assert inside.sum() > 0.3 * panel.width * panel.height
