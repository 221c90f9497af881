"""The report as a whole: files, figures, publishing, the command line, and what it must not import."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from test_report_records import OWN_JOB, TINY_JOB, finish, plan, tiny_run
from test_report_tables import baselines
from typer.testing import CliRunner

from hpcseg.cli.app import app
from hpcseg.config import ReportConfig
from hpcseg.errors import ConfigError
from hpcseg.jobfile import find_shipped, load_job
from hpcseg.records.collect import collect
from hpcseg.report import own_figures
from hpcseg.report.build import build_report, publish
from hpcseg.report.curves import figure3, figure7
from hpcseg.report.figures import FIGURES, draw
from hpcseg.report.tables import TABLES
from hpcseg.report.texts import TEXTS
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.grid import Cell, Grid, write_plan
from hpcseg.runs.grid import plan as planned
from hpcseg.sigma import Share

JOBS = Path(__file__).parents[2] / "jobs"
LARGE = '[[grid]]\ndata.tiles = "large"\ntrain.noise_fraction = [0.0, 0.5, 1.0]\ntrain.seed = [0, 1]\n'
BLOCKED = '[[grid]]\ndata.tiles = "large"\ndata.split = "blocked"\ntrain.noise_fraction = 0.5\n'
EVERYTHING = [
    *("cells.csv", "figure3.png", "figure3.svg", "figure7.png", "figure7.svg"),
    *("report.html", "table1.csv", "table2.csv", "tables.md"),
]


def whole_run(folder: Path) -> Grid:
    """A run that fills both tables and both figures in part, two seeds for large."""
    grid = plan(folder, TINY_JOB + LARGE + BLOCKED)
    for cell in grid.cells:
        finish(cell, lambda config, sigma: 980 + config.train.seed - int((sigma or 0) / 50))
    return grid


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_report_has_all_tables_and_figures_and_leaves_no_aside_files(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".report.html.0123abcd.tmp").write_text("of a report that was killed")
    report = build_report(whole_run(tmp_path / "run").run, tmp_path / "out")

    assert names(tmp_path / "out") == EVERYTHING
    assert sorted(path.name for path in report.written) == EVERYTHING
    assert [hole.subject for hole in report.content.holes] == ["baselines"]
    assert [line for line in report.headlines if line.startswith("Table 1, accuracy: validation (small) 0.980 (0.990)")]


def test_figures_are_pictures_with_ink_and_the_same_bytes_again(tmp_path):
    grid = whole_run(tmp_path / "run")
    for folder in ("a", "b"):
        build_report(grid.run, tmp_path / folder)

    for name in ("figure3", "figure7"):
        picture = matplotlib.image.imread(tmp_path / "a" / f"{name}.png")
        assert min(picture.shape[:2]) > 400
        assert 0.01 < (picture[..., :3].min(axis=2) < 0.9).mean() < 0.5
        assert ElementTree.parse(tmp_path / "a" / f"{name}.svg").getroot().tag.endswith("svg")
    for name in EVERYTHING:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_users_matplotlibrc_changes_no_figure_and_is_left_as_it_was(tmp_path):
    records = collect(whole_run(tmp_path / "run").run)
    users = {"savefig.bbox": "tight", "axes.facecolor": "yellow", "lines.linestyle": ":", "svg.fonttype": "none"}
    for name in ("figure3", "figure7"):
        wanted = draw(name, records).files
        with matplotlib.rc_context(users):
            assert draw(name, records).files == wanted, name
            assert {key: matplotlib.rcParams[key] for key in users} == users


def test_figure7_shows_every_seed_of_both_splits_chance_the_end_of_training_and_the_papers_points(tmp_path):
    drawn = figure7(collect(whole_run(tmp_path / "run").run))
    (axes,) = drawn.figure.axes

    def of(colour: str, style: str = "-") -> list:
        return [line for line in axes.lines if line.get_color() == colour and line.get_linestyle() == style]

    # Seeds 0 and 1: 980 and 981 right pixels of 1000, less 100, 200 and 400 with the noise.
    for seed, line in enumerate(of("#0072B2")):
        np.testing.assert_array_equal(line.get_xdata(), [0, 5000, 10_000, 20_000])
        np.testing.assert_allclose(line.get_ydata(), np.array([0.980, 0.880, 0.780, 0.580]) + seed / 1000)
    assert (len(of("#0072B2")), len(of("#D55E00"))) == (2, 1), "two seeds shuffled, one blocked"
    names = [str(line.get_label()) for line in axes.lines if not str(line.get_label()).startswith("_")]
    assert sum("50 % noise in training" in name for name in names) == 2
    assert {"0 %", "100 %"} <= {name.split("ours, ")[1][:5].strip(" n") for name in names if name.startswith("ours")}
    # Three classes; all pixels are of the commonest.
    assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [1.0, 1 / 3]
    (seen,) = [line for line in axes.lines if line.get_label() == "the strongest noise of the training"]
    assert seen.get_xdata() == [10_000, 10_000]
    points = [line.get_xydata().tolist() for line in axes.lines if str(line.get_label()).startswith("paper")]
    assert [[5000, 0.954]] in points and [[30_000, 0.49]] in points and [[9000, 0], [9000, 1]] in points
    assert drawn.holes == ()


def test_figure7_has_the_curve_of_the_filter_where_it_was_measured(tmp_path):
    grid = whole_run(tmp_path / "run")
    large = [cell for cell in grid.cells if cell.config.data.split == "shuffled" and cell.config.data.tiles == "large"]
    baselines(dataclasses.replace(grid, cells=tuple(large)), lambda sigma: 900 - int(sigma / 100))
    (axes,) = figure7(collect(grid.run)).figure.axes
    (line,) = [line for line in axes.lines if str(line.get_label()).startswith("filter")]
    assert line.get_ydata().tolist() == [0.9, 0.85, 0.8, 0.7] and "shuffled" in line.get_label()


def test_figure7_of_shares_has_them_on_its_axis_and_nothing_of_the_papers_counts(tmp_path):
    toml = (TINY_JOB + LARGE).replace("20000", '"84 %"').replace("10000", '"42 %"')
    grid = plan(tmp_path / "run", toml)
    for cell in grid.cells:
        finish(cell, lambda _, sigma: 980 - (int(sigma.per_cent) if isinstance(sigma, Share) else 0))
    drawn = figure7(collect(grid.run))
    assert drawn.holes == () and drawn.said == {"paper": ""}
    (axes,) = drawn.figure.axes
    (ours,) = [line for line in axes.lines if "50 % noise in training, shuffled" in str(line.get_label())]
    # The table's 5000 counts are of another unit.
    assert ours.get_xdata().tolist() == [0, 42, 84]
    np.testing.assert_allclose(ours.get_ydata(), [0.98, 0.938, 0.896])
    assert (axes.get_xlabel(), axes.get_xlim()) == ("sigma of the test noise (% of the span of grey values)", (0, 84))
    assert not [line for line in axes.lines if str(line.get_label()).startswith("paper")]


def test_a_sweep_in_another_unit_than_figure7s_is_a_hole(tmp_path):
    shares = 'evaluate.sweep_max = "84 %"\nevaluate.sweep_step = "42 %"\n'
    grid = plan(tmp_path / "run", TINY_JOB + LARGE + BLOCKED + shares)
    for cell in grid.cells:
        finish(cell, lambda *_: 900)
    (hole,) = figure7(collect(grid.run)).holes
    assert grid.cells[-1].id in hole.reason and "in shares of the span of grey values, unlike the others" in hole.reason


def test_figure3_has_a_panel_pair_per_data_set_with_the_epochs_as_recorded(tmp_path):
    drawn = figure3(collect(whole_run(tmp_path / "run").run))
    assert len(drawn.figure.axes) == 4

    loss, _, errors, _ = drawn.figure.axes
    assert [line.get_ydata().tolist() for line in loss.lines] == [[1.0, 0.5], [1.2, 0.6]]
    # Validation is counted from its confusion matrix: 980 of 1000 pixels are right in both epochs.
    np.testing.assert_allclose([line.get_ydata() for line in errors.lines], [[50, 25], [2, 2]])
    assert (loss.get_yscale(), errors.get_yscale()) == ("log", "log"), "or epochs 5 to 15 are one line"


def test_a_figure_without_data_is_a_hole_and_its_old_files_go(tmp_path):
    grid = whole_run(tmp_path / "run")
    build_report(grid.run, tmp_path / "out")
    for cell in grid.cells:
        if cell.config.data.tiles == "large":
            cell.folder.evaluation_file.unlink()

    report = build_report(grid.run, tmp_path / "out")

    assert [name for name in EVERYTHING if "figure7" not in name] == names(tmp_path / "out")
    assert [str(hole) for hole in report.content.holes if hole.subject == "figure7" and grid.cells[4].id in hole.reason]


def test_a_users_own_files_stay_and_only_what_an_earlier_report_left_goes(tmp_path):
    grid, out = tiny_run(tmp_path / "run", OWN_JOB), tmp_path / "out"
    out.mkdir()
    own = {"levels.csv": "mine", "sweep.png": "a curve of mine", "classes.svg": "drawn by hand", "cost.csv": "table,x"}
    for name, text in own.items():
        (out / name).write_text(text)
    (out / "edges.csv").mkdir()
    # A document of somebody else's is no report, and has such a figure.
    (out / "tables.md").write_text("![mine](sweep.png)")

    def of_job(**report) -> None:
        write_plan(dataclasses.replace(grid, job=dataclasses.replace(grid.job, report=ReportConfig(**report))))
        build_report(grid.run, out)
        assert {name: (out / name).read_text() for name in own} == own
        assert (out / "edges.csv").is_dir()

    of_job(tables=("axes", "resources"), figures=("levels", "epochs"))
    assert {"resources.csv", "levels.png", "levels.svg"} <= set(names(out))
    of_job(tables=("axes",), figures=("epochs",))
    assert not {"resources.csv", "levels.png", "levels.svg"} & set(names(out))


def test_every_table_and_figure_has_its_words_and_there_are_no_others():
    where = "[{}.NAME] of hpcseg/report/templates/texts.toml"
    assert TEXTS["tables"].keys() == TABLES.keys(), where.format("tables")
    assert TEXTS["figures"].keys() == FIGURES.keys(), where.format("figures")


@pytest.mark.parametrize("kind", ["tables", "figures"])
def test_an_unknown_report_name_is_refused_with_the_valid_ones(tmp_path, kind):
    grid = tiny_run(tmp_path / "run", OWN_JOB + f'[report]\n{kind} = ["table9"]\n')
    valid = ", ".join(TABLES if kind == "tables" else sorted(FIGURES))
    with pytest.raises(ConfigError, match=rf'the {kind[:-1]} "table9"\. Valid names are {valid}\.'):
        build_report(grid.run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_answers_are_told_before_the_numbers(tmp_path):
    grid = tiny_run(tmp_path / "run")
    said = CliRunner().invoke(app, ["report", "--run", str(grid.run.path)]).stdout.splitlines()
    assert said[0].startswith("How near are these numbers to the paper's? ")


def test_a_job_chooses_its_tables_and_figures(tmp_path):
    grid = tiny_run(tmp_path / "run", OWN_JOB + '[report]\ntables = ["table1"]\nfigures = []\n')
    assert [hole.subject for hole in build_report(grid.run, tmp_path / "out").content.holes] == ["baselines"]
    assert names(tmp_path / "out") == ["cells.csv", "report.html", "table1.csv", "tables.md"]


def epochs(cell: Cell, losses: list[float]) -> None:
    """A training that goes on: a start, and these epochs with 90 of 100 pixels right."""
    cell.folder.events_file.write_text('{"time": 1, "event": "start"}\n')
    lines = [
        {"epoch": number, "train_loss": loss, "train_accuracy": 0.9, "validation_loss": loss,
         "validation_confusion": [[90, 10], [0, 0]]}
        for number, loss in enumerate(losses, start=1)
    ]  # fmt: skip
    cell.folder.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_in_the_middle_of_a_run_there_are_holes_and_the_curves_so_far(tmp_path):
    grid = plan(tmp_path / "run")
    epochs(grid.cells[0], [0.9, 0.5, 0.4])

    report = build_report(grid.run, tmp_path / "out")

    reasons = {hole.subject: hole.reason for hole in report.content.holes}
    assert reasons[grid.cells[0].id] == "it is started, but not finished."
    assert reasons[grid.cells[1].id] == "it is not started."
    assert matplotlib.image.imread(tmp_path / "out" / "epochs.png").std() > 0
    drawn = own_figures.epochs(collect(grid.run)).figure
    loss, wrong = (axes.lines[0].get_xydata().tolist() for axes in drawn.axes)
    assert loss == [[1, 0.9], [2, 0.5], [3, 0.4]]
    assert wrong == [[1, pytest.approx(10)], [2, pytest.approx(10)], [3, pytest.approx(10)]]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Loss and validation per epoch" in page and "it is started, but not finished." in page

    for cell in grid.cells:
        finish(cell, lambda *_: 990)
    build_report(grid.run, tmp_path / "out")
    assert not (tmp_path / "out" / "epochs.png").exists(), "the job asks for none"


@pytest.mark.parametrize("job", sorted(path.stem for path in JOBS.glob("*.toml")))
def test_every_shipped_job_has_a_report_before_a_cell_is_finished(tmp_path, job):
    grid = planned(load_job(find_shipped("job", job)), RunFolder(tmp_path / job), tmp_path / "data.h5", "0" * 64)
    write_plan(grid)
    epochs(grid.cells[-1], [0.9, 0.5])
    report = build_report(grid.run, tmp_path / "out")
    assert {cell.id for cell in grid.cells} <= {hole.subject for hole in report.content.holes}
    assert tmp_path / "out" / "epochs.svg" in report.written


def test_a_published_folder_rebuilds_the_same_csvs_byte_for_byte(tmp_path, monkeypatch):
    monkeypatch.setattr("hpcseg.runs.grid.diff", lambda: "what was changed in the checkout")
    changes = b"what was changed in the checkout"
    monkeypatch.setattr("hpcseg.runs.grid.diff_sha256", lambda: hashlib.sha256(changes).hexdigest())
    grid = whole_run(tmp_path / "run")
    grid.cells[0].folder.evaluation_file.unlink()
    grid.cells[1].folder.failure_file.write_text('{"error": "no longer true"}')
    grid.cells[2].folder.model_file.write_bytes(b"weights")
    build_report(grid.run, tmp_path / "from_run")
    publish(grid.run, tmp_path / "published")
    published = RunFolder(tmp_path / "published")
    shutil.rmtree(tmp_path / "run")

    build_report(published, tmp_path / "again")

    for name in ("table1.csv", "table2.csv", "cells.csv"):
        wanted = (tmp_path / "from_run" / name).read_bytes()
        assert (tmp_path / "published" / name).read_bytes() == wanted
        assert (tmp_path / "again" / name).read_bytes() == wanted
    kinds = {path.suffix for path in (tmp_path / "published").rglob("*") if path.is_file()}
    assert kinds == {".json", ".jsonl", ".csv", ".md", ".html", ".png", ".svg", ".diff"}


def test_publishing_again_takes_back_what_the_run_no_longer_has(tmp_path):
    grid = tiny_run(tmp_path / "run")
    publish(grid.run, tmp_path / "published")
    grid.cells[0].folder.evaluation_file.unlink()

    report = publish(grid.run, tmp_path / "published")

    assert grid.cells[0].id in [hole.subject for hole in report.content.holes]


def test_publishing_again_takes_back_the_cells_of_an_earlier_plan_and_no_file_of_others(tmp_path):
    grid, published = whole_run(tmp_path / "run"), RunFolder(tmp_path / "published")
    publish(grid.run, published.path)
    first, gone, noted = (cell.id for cell in grid.cells[:3])
    notes = published.cell(noted).path / "notes.txt"
    notes.write_text("mine")
    write_plan(dataclasses.replace(grid, cells=grid.cells[:1]))
    publish(grid.run, published.path)
    assert published.cell(first).evaluation_file.exists() and not published.cell(gone).path.exists()
    assert [folder.id for folder in published.cell_folders()] == sorted([first, noted])
    assert list(notes.parent.iterdir()) == [notes]


def test_no_diff_is_published_but_the_planned_one_and_nothing_through_a_link(tmp_path, monkeypatch):
    changes = "what was changed"
    monkeypatch.setattr("hpcseg.runs.grid.diff", lambda: changes)
    monkeypatch.setattr("hpcseg.runs.grid.diff_sha256", lambda: hashlib.sha256(changes.encode()).hexdigest())
    grid, target = tiny_run(tmp_path / "run"), tmp_path / "published"
    (tmp_path / "id_rsa").write_text("secret")
    (grid.run.path / "code-deadbeef.diff").symlink_to(tmp_path / "id_rsa")
    (grid.run.path / "code-12345678.diff").write_text("of an earlier plan")
    (planned,) = set(grid.run.path.glob("code-*.diff")) - {
        grid.run.path / f"code-{name}.diff" for name in ("deadbeef", "12345678")
    }
    publish(grid.run, target)
    assert [path.read_text() for path in target.glob("code-*.diff")] == [changes]

    planned.write_text("another")
    with pytest.raises(ConfigError, match="is not the diff that the run was planned with"):
        publish(grid.run, target)
    planned.unlink()
    examples = grid.cells[0].folder.examples_file
    examples.unlink(missing_ok=True)
    examples.symlink_to(tmp_path / "id_rsa")
    with pytest.raises(ConfigError, match=r"examples\.npz cannot be published: it is a link"):
        publish(grid.run, target)
    assert not any(path.is_file() and "secret" in path.read_text(errors="replace") for path in target.rglob("*"))


@pytest.mark.parametrize("planned", [True, False])
def test_the_command_says_what_it_publishes_and_which_diff_it_does_not(tmp_path, monkeypatch, planned):
    sha256 = hashlib.sha256(b"what was changed").hexdigest()
    monkeypatch.setattr("hpcseg.runs.grid.diff", lambda: "what was changed")
    monkeypatch.setattr("hpcseg.runs.grid.diff_sha256", lambda: sha256 if planned else None)
    run, out = tiny_run(tmp_path / "run").run, tmp_path / "published"
    (run.path / "code-deadbeef.diff").write_text("PRIVATE KEY")

    result = CliRunner().invoke(app, ["report", "--run", str(run.path), "--publish", str(out)])

    assert result.exit_code == 0, result.output
    assert [path.name for path in out.glob("*.diff")] == [run.diff_file(sha256).name] * planned
    assert "code-deadbeef.diff is not published, since it is not what grid.json names." in result.stderr
    assert (f"{run.diff_file(sha256).name} is published (0 kB): what was changed" in result.stderr) == planned
    files = [path for path in out.rglob("*") if path.is_file()]
    assert f"Published in {out}: {len(files)} files, " in result.stderr


def test_publishing_over_a_run_or_over_another_job_is_refused(tmp_path):
    grid = tiny_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="run folder"):
        publish(grid.run, tmp_path / "run")
    other = plan(tmp_path / "other", name="second")
    other.cells[0].folder.model_file.write_bytes(b"weights")
    with pytest.raises(ConfigError, match="run folder"):
        publish(grid.run, tmp_path / "other")
    other.cells[0].folder.model_file.unlink()
    with pytest.raises(ConfigError, match=r'"second".*"tiny"'):
        publish(grid.run, tmp_path / "other")


def test_the_command_takes_the_newest_run_and_prints_numbers_holes_and_files(tmp_path, monkeypatch):
    grid = tiny_run(tmp_path / "runs" / "tiny")
    grid.cells[1].folder.evaluation_file.unlink()
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(app, ["report", "--publish", "results/tiny"])

    assert result.exit_code == 0, result.output
    assert "Table 1, accuracy: validation (small) 0.990 (0.990), test (small) 0.968 (0.968)" in result.output
    assert f"{grid.cells[1].id}: it is trained, but not evaluated." in result.output
    assert "wrote runs/tiny/report/tables.md" in result.output
    assert "wrote results/tiny/tables.md" in result.output
    assert (tmp_path / "results/tiny/cells" / grid.cells[0].id / "training.json").exists()


def test_ctrl_c_ends_it_with_one_line_and_the_same_command_completes(tmp_path):
    grid = tiny_run(tmp_path / "run", OWN_JOB)
    command = ["report", "--run", str(grid.run.path), "-o", str(tmp_path / "out")]
    script = (
        "import time\nfrom hpcseg.report import build\nwrite = build.write_bytes\n"
        "def slow(*given):\n    write(*given)\n    print('a file is written', flush=True)\n    time.sleep(60)\n"
        "build.write_bytes = slow\nfrom hpcseg.cli.app import main\nmain()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "a file is written\n", process.stderr.read()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, ("", "error: stopped\n"))
    assert not (tmp_path / "out" / "report.html").exists() and not list((tmp_path / "out").glob(".*"))
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    assert {"axes.csv", "report.html", "tables.md"} <= set(names(tmp_path / "out"))


def test_a_script_reads_holes_and_files_from_one_object(tmp_path):
    grid = tiny_run(tmp_path / "run")
    grid.cells[0].folder.evaluation_file.unlink()
    said = CliRunner().invoke(app, ["report", "--run", str(grid.run.path), "--json"])
    answer = json.loads(said.stdout)
    assert answer["holes"][0]["subject"] == grid.cells[0].id
    assert all(Path(path).is_file() for path in answer["written"])
    assert "hole" in said.stderr


def test_the_command_before_anything_has_begun_names_the_holes_and_what_fills_them(tmp_path):
    plan(tmp_path / "run")
    result = CliRunner().invoke(app, ["report", "--run", str(tmp_path / "run"), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert result.output.count("  Run `hpcseg grid --job tiny`.\n") == 1 and ": it is not started.\n" in result.output


def test_a_report_loads_no_torch_h5py_or_submitit():
    program = (
        "import sys, hpcseg.report.build, hpcseg.cli.report;"
        "print([name for name in ('torch', 'h5py', 'submitit', 'matplotlib.pyplot') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
