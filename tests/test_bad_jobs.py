"""Job files and profiles that cannot be used, through `hpcseg grid`: one sentence, exit code 2, and nothing planned."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slice_folder import hpcseg

from hpcseg.config import CellConfig, EvaluateConfig
from hpcseg.errors import ConfigError
from hpcseg.jobfile import load_job


@pytest.fixture
def refused(tiny_dataset, tmp_path, monkeypatch):
    """What `hpcseg grid` says of a job file, or of a profile, that must not do."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.toml").write_text("")

    def plan(content=None, *, job="job.toml", profile=None):
        if content is not None:
            Path(profile or job).write_bytes(content if isinstance(content, bytes) else content.encode())
        options = ["--profile", profile] if profile else []
        result = hpcseg(
            "grid", "--local", "--dry-run", "--data", tiny_dataset, "--job", "good.toml" if profile else job, *options
        )
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert len(result.stderr.splitlines()) == 1
        assert not Path("runs").exists()
        return result.stderr

    return plan


AXIS = list(range(1, 1001))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[report]\ntables = ['axis']", 'job.toml: report.tables names the table "axis". Valid names are table1, '),
        ("[report]\nfigures = ['epoch']", 'job.toml: report.figures names the figure "epoch". Valid names are '),
        ("[train]\nwidht = 8", 'unknown key "widht". Did you mean "width"?'),
        ("[train]\nwidth = 8.0", "width must be a whole number"),
        ("[data]\ntile_size = 0", "data.tile_size is 0, but it must be at least 8 pixels"),
        ("[data]\ntiles = 'cover'\ntile_size = 0", "data.tile_size is 0, but it must be at least 8 pixels"),
        ("[train]\nseed = 1\nseed = 2", "is not valid TOML: Cannot overwrite a value"),
        ("[train]\nseed = 1\n[train]\nwidth = 2", "is not valid TOML: Cannot declare"),
        (b"[train]\n# \xff\xfe\nseed = 1", "is not valid TOML: 'utf-8' codec can't decode"),
        ("[train]\nseed = 1".encode("utf-16"), "is not valid TOML"),
        (bytes(100), "is not valid TOML"),
        ("a." * 60_000 + "a = 1", "has a line of more than 500 dots"),
        ("x = {" + '"a" . ' * 60_000 + "a = 1}", "has a line of more than 500 dots"),
        ("# " + 1_000_000 * "x", "bytes. A job or a profile has at most 1,000,000"),
        (f"[train]\nprecision = '{100_000 * 'x'}'", f'precision is "{100 * "x"}...", but it must be one of'),
        (f"[train]\n{100_000 * 'x'} = 1", f'unknown key "{100 * "x"}..."'),
        ("a = " + 100_000 * "[", "is not valid TOML: maximum recursion depth"),
        (f"[train]\nseed = {5_000 * '9'}", "is not valid TOML: Exceeds the limit"),
        (f"[train]\nseed = {2**63}", "seed must be a number of 64 bits"),
        (f"[train]\nlearning_rate = {400 * '9'}", "learning_rate must be a number of 64 bits"),
        ("[train]\nlearning_rate = nan", "learning_rate must be a finite number, found nan"),
        ("[train]\nseed = inf", "seed must be a finite number, found inf"),
        ("[needs]\nmemory_gib = -inf", "memory_gib must be a finite number, found -inf"),
        ("[train]\nwidth = 1_000_000_000", "it must be between 1 and 4096 channels"),
        ('[data]\ntiles = "1000000000x1000000000"', "rows x columns, at most 999 each"),
        (f'[data]\ntiles = "{5_000 * "9"}x1"', "rows x columns, at most 999 each"),
        ('[data]\ntiles = "../../x"', 'data.tiles is "../../x"'),
        ('[train]\nprecision = "../bf16"', 'train.precision is "../bf16"'),
        (f"[data]\ntiles = {AXIS}", "data.tiles is a list, and only a [[grid]] may have one"),
        ("[evaluate]\nsweep_max = 1e9\nsweep_step = 1e-3", "sweep_step is 0.001, but it must be at least 100000"),
        ("[evaluate]\nsweep_max = 1e308\nsweep_step = 1e-308", "for a sweep of at most 10000 levels"),
        ("title = 3", "title must be a text, found 3"),
        ("[[grid]]\ntrain.seed = [[1, 2]]", "seed must be a whole number, found [1, 2]"),
        ("[[grid]]\ntrain.seed = {a = 1}", "seed must be a whole number, found {'a': 1}"),
        ("[train]\nseed = 1979-05-27", "seed must be a whole number, found datetime.date"),
    ],
)
def test_a_faulty_job_file_is_refused_with_its_name(refused, content, told):
    message = refused(content)
    assert "job.toml" in message and len(message) < 1000
    assert told in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("partitoin = 'gpu'", 'unknown key "partitoin". Did you mean "partition"?'),
        (f"nodes = {400 * '9'}", "nodes must be a number of 64 bits"),
        (f"mem = {400 * '9'}", "mem must be a number of 64 bits"),
        ("mem = nan", "mem must be a finite number"),
        ("setup = [1]", "setup must be a list of texts"),
        ("setup = " + 100_000 * "[", "is not valid TOML: maximum recursion depth"),
    ],
)
def test_a_faulty_profile_is_refused_with_its_name(refused, content, told):
    message = refused(content, profile="site.toml")
    assert "site.toml" in message
    assert told in message


@pytest.mark.parametrize("option", ["job", "profile"])
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder", "a link to nowhere", "a name that is too long"])
def test_what_is_no_file_is_refused_and_not_waited_for(refused, tmp_path, option, kind):
    path = tmp_path / (300 * "n" + ".toml" if kind == "a name that is too long" else "odd.toml")
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind != "a name that is too long":
        path.symlink_to("/dev/zero" if kind == "a device" else "gone.toml")
    assert str(path) in refused(**{option: path})


@pytest.mark.parametrize("name", ["..toml", "...toml"])
def test_a_job_whose_folder_would_not_be_under_runs_is_refused(refused, tmp_path, name):
    assert "Rename the file" in refused("", job=tmp_path / name)


def test_a_grid_of_a_billion_cells_is_refused_in_a_moment(refused):
    started = time.process_time()
    message = refused(f"[[grid]]\ntrain.seed = {AXIS}\ntrain.epochs = {AXIS}\ndata.split_seed = {AXIS}\n")
    assert "the grids have 1000000000 cells, and a job may have 10000" in message
    assert time.process_time() - started < 5


def test_the_cells_of_all_grids_count_together(tmp_path):
    job = tmp_path / "job.toml"
    grids = [f"[[grid]]\ntrain.width = {width}\ntrain.seed = {AXIS}\n" for width in range(1, 12)]
    job.write_text("".join(grids[:10]))
    assert len(load_job(job).cells) == 10_000
    job.write_text("".join(grids))
    with pytest.raises(ConfigError, match="the grids have 11000 cells"):
        load_job(job)


def test_the_finest_sweep_is_one_of_10000_levels():
    assert len(EvaluateConfig(sweep_max=10_000, sweep_step=1, table_sigma=0).sigmas()) == 10_001


# --- properties


def loaded(text):
    """The job of a text, or the one sentence that says why it is none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "job.toml")
        path.write_text(text, encoding="utf-8", errors="replace")
        try:
            return load_job(path)
        except ConfigError as error:
            assert "job.toml" in str(error)
            return str(error)


KEYS = (
    "title",
    "data",
    "train",
    "evaluate",
    "needs",
    "report",
    "grid",
    "tiles",
    "seed",
    "width",
    "noise_fraction",
    "x",
)
values = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["small", "2x2", "blocked"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=6,
)


def toml(value):
    """A value as TOML writes it: as JSON does, but for tables and for what is no finite number."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value)


@pytest.mark.usefixtures("bounded")
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    text=st.text(alphabet=st.characters(codec="utf-8"), max_size=40) | st.text(alphabet='[]{}=."\n1aex#,', max_size=40)
)
def test_any_text_is_a_job_or_refused_in_words(text):
    loaded(text)


@pytest.mark.usefixtures("bounded")
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(document=st.dictionaries(st.sampled_from(KEYS), values, max_size=4))
def test_any_table_is_a_job_or_refused_in_words(document):
    job = loaded("".join(f"{key} = {toml(value)}\n" for key, value in document.items()))
    if not isinstance(job, str):
        assert set(document) <= {"title", "data", "train", "evaluate", "needs", "report", "grid"}
        assert job.cells


axes = st.fixed_dictionaries(
    {},
    optional={
        ("data", "tiles"): st.lists(st.sampled_from(["small", "large", "2x3", "10x1"]), min_size=1, unique=True),
        ("data", "tile_size"): st.lists(st.integers(8, 512), min_size=1, max_size=3, unique=True),
        ("train", "seed"): st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3, unique=True),
        ("train", "noise_fraction"): st.lists(st.floats(0, 1), min_size=1, max_size=3, unique=True),
        ("train", "batch_norm"): st.lists(st.booleans(), min_size=1, unique=True),
    },
)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(axes=axes)
def test_a_grid_is_every_point_of_its_axes_once_and_has_an_id_fit_for_a_folder(axes):
    job = loaded("[[grid]]\n" + "".join(f"{section}.{key} = {toml(some)}\n" for (section, key), some in axes.items()))
    found = [tuple(getattr(getattr(cell, section), key) for section, key in axes) for cell in job.cells]
    assert sorted(found) == sorted(itertools.product(*axes.values()))
    ids = {cell.cell_id(data_sha256="d", numerics=7) for cell in job.cells}
    assert len(ids) == len(job.cells)
    for name in ids:
        assert Path(name).name == name
        assert name not in (".", "..")
        assert len(name) < 200


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(spec=st.text(max_size=6) | st.from_regex(r"[0-9]{1,4}x[0-9]{1,4}", fullmatch=True))
def test_a_tile_grid_is_rows_and_columns_or_refused(spec):
    job = loaded(f"[data]\ntiles = {json.dumps(spec)}\n")
    if isinstance(job, str):
        assert "data.tiles is" in job or "not valid TOML" in job
    else:
        (cell,) = job.cells
        assert isinstance(cell, CellConfig)
        rows, columns = cell.data.tile_grid(1, 1)
        assert f"{rows}x{columns}" == spec
        assert 1 <= min(rows, columns) <= max(rows, columns) <= 999
