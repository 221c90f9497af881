"""hpcseg from Python: what the functions give is what the commands write, and what they refuse is one sentence."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch
import zarr
from slice_folder import hpcseg, write_image, write_label

import hpcseg.api as hs
from hpcseg.data.sample import write_sample
from hpcseg.data.store import read_info
from hpcseg.errors import ConfigError, DatasetError, HpcsegError, IncompleteError
from hpcseg.predict.model_file import export

# What `pack` says of a few small slices.
pytestmark = pytest.mark.filterwarnings(r"ignore:slices are alike|.*have no class, since:UserWarning")
HERE = Path(__file__).parent
NAMES = {"pore": 0, "YSZ": 128, "Ni": 255}
SETTINGS = {
    "train.width": 4,
    "train.depth": 2,
    "train.epochs": 4,
    "train.batch_size": 2,
    "train.learning_rate": 0.01,
    "train.noise_fraction": 0,
    "train.precision": "fp32",
    "train.seed": [0, 1],
    "data.tile_size": np.int64(64),
}


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As in a notebook, also where the tests were started with an `&`, which ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def run(tiny_dataset, tmp_path_factory) -> Path:
    """A run of two trained cells."""
    folder = tmp_path_factory.mktemp("api") / "run"
    for cell in ("s0", "s1"):
        hs.train(tiny_dataset, out=folder, settings=SETTINGS, cell=cell)
    return folder


@pytest.fixture(scope="module")
def cells(run) -> list[Path]:
    return sorted((run / "cells").iterdir(), key=lambda path: re.search(r"-(s\d)-", path.name)[1])


@pytest.fixture(scope="module")
def models(cells) -> list[hs.Model]:
    return [hs.load_model(cell) for cell in cells]


@pytest.fixture(scope="module")
def volume(tiny_folder) -> np.ndarray:
    return np.stack([tifffile.imread(path) for path in sorted((tiny_folder / "data").iterdir())])


def script(text: str | Path, folder: Path) -> str:
    """What a script prints; its warnings are errors, but for those of `pack`."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-W",
        "ignore::UserWarning",
        *([text] if isinstance(text, Path) else ["-c", text]),
    ]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def predicted(folder: Path, cells: list[Path], slices: np.ndarray, *options: object) -> dict[str, np.ndarray]:
    """The layers that `hpcseg predict` writes for slices in a file."""
    with h5py.File(folder / "slices.h5", "w") as file:
        file["slices"] = slices
    more = [word for cell in cells[1:] for word in ("--ensemble", cell)]
    answer = hpcseg("predict", cells[0], folder / "slices.h5", "-o", folder / "out", *more, *options)
    assert answer.exit_code == 0, answer.output
    found = {}
    for path in (folder / "out").glob("*.h5"):
        with h5py.File(path) as file:
            found[path.stem] = file[path.stem][()]
    return found


def same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


def test_the_notebook_goes_from_slices_to_labels_and_numbers(tmp_path):
    told = script(HERE / "notebook.py", tmp_path)
    assert "16 slices, the first 64 x 64 pixels of uint16" in told and "epoch 12/12, loss" in told
    shares = [float(share) for share in re.findall(r"^(?:pore|ceramic|metal): ([\d.]+)%$", told, re.MULTILINE)]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert float(re.search(r"gaussian-0: ([\d.]+) of", told)[1]) > 0.6


def test_the_snippet_of_the_guide_runs_as_it_stands_and_names_all_that_there_is(tmp_path):
    section = (HERE.parent / "hpcseg/GUIDE.md").read_text().partition("## In a notebook")[2].partition("\n## ")[0]
    snippet = "\n".join(re.findall(r"^    (.*)$", section, re.MULTILINE))
    assert set(re.findall(r"hs\.(\w+)\(", snippet)) == {name for name in hs.__all__ if name.islower()}
    write_sample(tmp_path / "DATA", slices=16, size=128, seed=3)
    small = snippet.replace('"train.width": 16', '"train.width": 2, "train.depth": 2, "train.epochs": 1')
    assert small != snippet
    assert script(f"{small}\nprint(labels.shape, len(rows))", tmp_path).splitlines()[-1].startswith("(128, 128) ")


def test_nothing_heavy_is_loaded_before_it_is_used(tmp_path):
    told = script("import sys, hpcseg.api; print({'torch', 'h5py', 'tifffile', 'scipy'} & set(sys.modules))", tmp_path)
    assert told.strip() == "set()"


def test_a_source_says_its_shapes_and_reads_its_slices(tiny_folder, volume, tmp_path):
    source = hs.open_source(str(tiny_folder / "data"))
    assert (len(source), source.shapes[0], source.dtypes[0]) == (16, (128, 128), np.dtype("uint16"))
    np.testing.assert_array_equal(source.read(3), volume[3])
    volume.astype(">u2").tofile(tmp_path / "a.raw")
    how = hs.Reading(shape=volume.shape, dtype="uint16", byteorder="big")
    same(hs.open_source(tmp_path / "a.raw", how).read(3), volume[3])


def test_packing_writes_what_the_command_writes_and_once_only(good, tmp_path):
    slices: list[int] = []
    packed = hs.pack(good, tmp_path / "a.h5", classes=NAMES, on_slice=lambda done, _: slices.append(done))
    assert hpcseg("pack", good, "-o", tmp_path / "b.h5", "--classes", "0=pore,128=YSZ,255=Ni").exit_code == 0
    typed = read_info(tmp_path / "b.h5")
    assert (packed.data_sha256, packed.class_names, packed.grey) == (typed.data_sha256, typed.class_names, typed.grey)
    assert packed.class_names == ("pore", "YSZ", "Ni") and slices == [1, 2, 3]
    command = hpcseg("pack", good, "-o", tmp_path / "a.h5", "--classes", "0=pore,128=YSZ,255=Ni")
    assert "nothing was written" in command.stderr
    assert hs.pack(good, tmp_path / "a.h5", classes=NAMES).created == packed.created
    with pytest.raises(ConfigError, match="exists already and does not hold these slices: "):
        hs.pack(good, tmp_path / "a.h5", classes={"hole": 0, "solid": "128-255"})
    assert (
        hs.pack(good, tmp_path / "a.h5", classes={"hole": 0, "solid": "128-255"}, force=True).class_names[0] == "hole"
    )
    assert hs.pack(None, tmp_path / "c.h5", images=good / "data", labels=good / "labels").shape == packed.shape


def test_many_slices_are_packed_by_processes_of_a_guarded_script_and_refused_in_another(tmp_path):
    for number in range(1, 5):
        write_image(tmp_path / "DATA", number, shape=(3000, 3000))
        write_label(tmp_path / "DATA", number, shape=(3000, 3000))
    head = "import os\nimport hpcseg.api as hs\nos.sched_getaffinity = lambda _: {0, 1}\n"  # on any machine
    (tmp_path / "bare.py").write_text(f"{head}hs.pack('DATA', 'set.h5')\n")
    (tmp_path / "guarded.py").write_text(f"{head}if __name__ == '__main__':\n    hs.pack('DATA', 'set.h5')\n")
    answer = subprocess.run([sys.executable, "bare.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 1 and 'needs `if __name__ == "__main__":`' in answer.stderr
    script(tmp_path / "guarded.py", tmp_path)
    assert (tmp_path / "set.h5").exists()


@pytest.mark.usefixtures("interruptible")
def test_a_training_that_is_interrupted_goes_on_with_the_same_call(tiny_dataset, tmp_path, cells):
    said: list[str] = []

    def interrupt(line: str) -> None:
        said.append(line)
        if line.startswith("epoch 2/"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"has a checkpoint\. The same call goes on"):
        hs.train(tiny_dataset, out=tmp_path / "run", settings=SETTINGS, say=interrupt)
    assert [line.split(",")[0] for line in said[1:]] == ["epoch 1/4", "epoch 2/4"]
    cell = hs.train(tiny_dataset, out=tmp_path / "run", settings=SETTINGS, say=said.append)
    assert [line.split(",")[0] for line in said[4:6]] == ["epoch 3/4", "epoch 4/4"]
    # The same id, and the same bits as one that was left alone.
    assert cell.name == cells[0].name
    assert (cell / "metrics.jsonl").read_text() == (cells[0] / "metrics.jsonl").read_text()
    began = time.monotonic()
    assert hs.train(tiny_dataset, out=tmp_path / "run", settings=SETTINGS) == cell
    assert time.monotonic() - began < 2


def test_a_cell_that_another_process_runs_is_left_alone(tiny_dataset, tmp_path, cells):
    held = tmp_path / "run/cells" / cells[0].name / "lock"
    held.parent.mkdir(parents=True)
    with held.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(HpcsegError, match="Another process is running cover-"):
            hs.train(tiny_dataset, out=tmp_path / "run", settings=SETTINGS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ()),
        ({"tile": 64}, ("--tile", 64)),
        ({"flips": True}, ("--flips",)),
        ({"float16": True}, ("--float16",)),
        ({"range_": (0, 64_000)}, ("--range", 0, 64_000)),
        ({"percentiles": (1, 99)}, ("--percentiles", 1, 99)),
        ({"precision": "bf16"}, ("--precision", "bf16")),
    ],
    ids=str,
)
def test_an_array_becomes_what_the_command_writes_bit_for_bit(models, cells, volume, tmp_path, options, words):
    labels, uncertainty = hs.predict(models[0], volume[:4], uncertainty=True, **options)
    wanted = predicted(tmp_path, cells[:1], volume[:4], "--uncertainty", *words)
    same(labels, wanted["labels"])
    same(uncertainty, wanted["uncertainty"])
    assert len(np.unique(labels)) > 1 and len(np.unique(uncertainty)) > 50


def test_several_models_are_one_ensemble(models, cells, volume, tmp_path):
    wanted = predicted(tmp_path, cells, volume[:3])["labels"]
    same(hs.predict(models, volume[:3]), wanted)
    same(hs.predict([models[0], *models], volume[:3]), wanted)
    assert (hs.predict(models[0], volume[:3]) != wanted).any()


@pytest.mark.parametrize("dtype", [">u2", "int16", "float64", "int32"])
def test_arrays_of_other_types_and_without_grey_values_are_taken_as_files_of_them(
    models, cells, volume, tmp_path, dtype
):
    slices = (volume[:2, :100, :75] // 4).astype(dtype)
    if dtype == "float64":
        slices[0, :20, :30] = np.nan
    range_ = (0, 16_000)
    labels = hs.predict(models[0], slices, range_=range_, outside=7)  # without a warning of strange grey values
    same(labels, predicted(tmp_path, cells[:1], slices, "--range", *range_, "--outside", 7)["labels"])
    assert (labels[0, :20, :30] == 7).all() == (dtype == "float64")
    assert json.loads((tmp_path / "out/prediction.json").read_text())["slices_of_strange_grey_values"] == []


def test_one_slice_gives_one_and_a_data_set_is_read_slice_by_slice(models, volume, tmp_path):
    wanted = hs.predict(models[0], volume[:3])
    same(hs.predict(models[0], volume[1]), wanted[1])
    same(hs.predict(models[0], volume[:3].tolist(), range_=(0, 65_535)), wanted)
    with h5py.File(tmp_path / "slices.h5", "w") as file:
        file["slices"] = volume[:3]
        same(hs.predict(models[0], file["slices"]), wanted)
        file["one"] = volume[1]
        for one in (file["slices"][1], file["one"], zarr.array(volume[1])):
            same(hs.predict(models[0], one), wanted[1])
    same(hs.predict(models[0], hs.open_source(f"{tmp_path / 'slices.h5'}::slices")), wanted)
    same(hs.predict(models[0], hs.open_source(f"{tmp_path / 'slices.h5'}::one")), wanted[1:2])


def test_of_a_finished_cell_nothing_is_told(tiny_dataset, run):
    said = []
    hs.train(tiny_dataset, out=run, settings=SETTINGS, cell="s0", say=said.append)
    assert said == []


def test_a_notebook_keeps_its_number_of_threads_of_torch(models, volume):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 2)
    try:
        hs.predict(models[0], volume[0])
        assert torch.get_num_threads() == before + 2
    finally:
        torch.set_num_threads(before)


def test_a_model_is_left_as_it_was_and_a_file_of_it_is_the_same(models, run, cells, volume, tmp_path):
    wanted = hs.predict(models[0], volume[0])
    same(hs.predict(models[0], volume[0]), wanted)
    export(models[0], tmp_path / "model.safetensors")
    same(hs.predict(hs.load_model(tmp_path / "model.safetensors"), volume[0]), wanted)
    same(hs.predict(hs.load_model("s0", run=run), volume[0]), wanted)


def test_grey_values_that_are_not_the_trainings_are_refused_or_warned_of(models, volume):
    with pytest.raises(DatasetError, match=r"The array holds uint8 grey values, but the model was trained on uint16"):
        hs.predict(models[0], (volume[:2] // 256).astype("uint8"))
    odd = volume[:8].copy()
    odd[5, :8] = 65_535  # 6 % of one slice, less than 1 % of all
    with pytest.warns(UserWarning, match=r"More than 1 % of the grey values of slice 5 are far outside"):
        hs.predict(models[0], odd, range_=(0, 65_535))


def test_the_table_is_the_cells_csv_of_the_report_with_numbers_as_such(run, tmp_path):
    assert hpcseg("report", "--run", run, "-o", tmp_path / "report").exit_code == 0
    rows = hs.read_table(run)
    with (tmp_path / "report/cells.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [list(line) for line in lines] and len(rows) > 100
    for row, line in zip(rows, lines, strict=True):
        for name, value in row.items():
            if isinstance(value, str | None):
                assert line[name] == (value or "")
            else:
                assert float(line[name] or "nan") == pytest.approx(value, abs=5.1e-7, nan_ok=True)
    accuracy = [row for row in rows if row["measure"] == "accuracy" and row["noise"] == "gaussian-0"]
    assert [row["seed"] for row in accuracy] == [0, 1] and all(0 < row["value"] < 1 for row in accuracy)


REFUSED = {
    "no source": (lambda _: hs.open_source("nowhere"), DatasetError, "There is no folder or file of slices nowhere"),
    "byte order": (lambda _: hs.Reading(byteorder="middle"), ConfigError, "--byteorder 'middle'.* little or big"),
    "pixels": (lambda _: hs.Reading(pixels="raw"), ConfigError, "--pixels is 'raw'.* shown or stored"),
    "shape": (lambda _: hs.Reading(shape=(3, 4)), ConfigError, r"--shape is \(3, 4\), but it must be SLICES,HEIGHT"),
    "nothing to pack": (lambda _: hs.pack(None, "a.h5"), ConfigError, "Name the folder that holds data/ and labels/"),
    "no folder": (lambda _: hs.pack("nowhere", "a.h5"), DatasetError, "There is no folder nowhere"),
    "no packed file": (lambda _: hs.train("no.h5", out="run"), DatasetError, "no.h5"),
    "unknown setting": (
        lambda it: hs.train(it.data, out="run", settings={"train.widht": 4}),
        ConfigError,
        'widht.*Did you mean "width"',
    ),
    "no section": (lambda it: hs.train(it.data, out="run", settings={"width": 4}), ConfigError, "SECTION.KEY=VALUE"),
    "no TOML": (
        lambda it: hs.train(it.data, out="run", settings={"train.width": np.arange(3)}),
        ConfigError,
        r"train.width is array\(\[0, 1, 2\]\); give a number",
    ),
    "settings in a list": (lambda it: hs.train(it.data, out="run", settings=["a"]), ConfigError, "by their names"),
    "no job": (lambda it: hs.train(it.data, out="run", job="nope"), ConfigError, 'There is no job "nope"'),
    "number of a cell": (lambda it: hs.train(it.data, out="run", cell=0), ConfigError, "cell is 0, but it must be the"),
    "no name": (lambda _: hs.open_source(5), ConfigError, "path is 5, but it must be the name of a file or folder"),
    "an open model": (lambda it: hs.load_model(it.model), ConfigError, "model is Model"),
    "no such model": (
        lambda _: hs.load_model("/no/model"),
        IncompleteError,
        "/no/model is no model file and no folder",
    ),
    "run of nothing": (lambda _: hs.read_table(None), ConfigError, "run is None"),
    "no output": (lambda _: hs.pack("a", None, images="b", labels="c"), ConfigError, "output is None"),
    "sizes": (lambda it: hs.predict(it.model, [it.slices[0], it.slices[1][:5]]), DatasetError, "several sizes"),
    "some cells": (lambda it: hs.train(it.data, out="run", settings=SETTINGS, cell="*"), ConfigError, "fits 2 cells"),
    "no model": (lambda _: hs.load_model("a.safetensors"), IncompleteError, "There is no model file a.safetensors"),
    "no cell": (lambda it: hs.load_model("s7", run=it.run), ConfigError, 'No cell of .* fits "s7"'),
    "no run": (lambda _: hs.read_table("nowhere"), IncompleteError, "There is no run nowhere"),
    "a path": (lambda it: hs.predict("a", it.slices), ConfigError, "takes a model of load_model.*got str"),
    "one of two": (lambda it: hs.predict([it.model, None], it.slices), ConfigError, "got Model, NoneType"),
    "slices by their path": (lambda it: hs.predict(it.model, "allA"), DatasetError, r"the path allA\..*open_source\("),
    "slices by a Path": (lambda it: hs.predict(it.model, Path("a/b")), DatasetError, r"the path a/b\..*open_source\("),
    "no models": (lambda it: hs.predict([], it.slices), ConfigError, "takes a model of load_model"),
    "four axes": (lambda it: hs.predict(it.model, it.slices[None]), DatasetError, r"\(1, 2, 128, 128\), but slices"),
    "no slices": (lambda it: hs.predict(it.model, it.slices[:0]), DatasetError, r"\(0, 128, 128\), but slices are"),
    "complex": (lambda it: hs.predict(it.model, it.slices * 1j), DatasetError, "The array holds complex128 grey"),
    "mask": (lambda it: hs.predict(it.model, np.ma.masked_less(it.slices, 9)), DatasetError, r"has a mask.*\(float\)"),
    "infinite": (
        lambda it: hs.predict(it.model, np.full((1, 64, 64), np.inf), range_=(0, 1)),
        DatasetError,
        "slice 0 holds infinite values",
    ),
    "tile": (lambda it: hs.predict(it.model, it.slices, tile=0), ConfigError, "--tile is 0"),
    "precision": (lambda it: hs.predict(it.model, it.slices, precision="auto"), ConfigError, "--precision is 'auto'"),
    "range": (lambda it: hs.predict(it.model, it.slices, range_=(5, 5)), ConfigError, "LOW must be below HIGH"),
    "one of a range": (lambda it: hs.predict(it.model, it.slices, range_=(5,)), ConfigError, "must be two numbers"),
    "nothing in a range": (lambda it: hs.predict(it.model, it.slices, range_=(None, 1)), ConfigError, "two numbers"),
    "part of a pixel": (lambda it: hs.predict(it.model, it.slices, tile=32.5), ConfigError, "--tile is 32.5.* whole"),
    "part of a label": (lambda it: hs.predict(it.model, it.slices, outside=2.5), ConfigError, "--outside is 2.5"),
    "a list of classes": (lambda _: hs.pack(None, "a.h5", images="a", labels="b", classes=[1]), ConfigError, "a dict"),
    "half a grey range": (lambda _: hs.pack(None, "a.h5", images="a", labels="b", grey_range=5), ConfigError, "two"),
    "no value": (lambda _: hs.pack(None, "a.h5", images="a", labels="b", ignore="x"), ConfigError, "--ignore is 'x'"),
    "a run": (lambda it: hs.load_model(it.run), ConfigError, "is a run. Name one of its cells"),
    "no reading": (lambda _: hs.open_source("a", None), ConfigError, "how is None, but it must be a Reading"),
    "no reading to pack": (lambda _: hs.pack("a", "b", how="x"), ConfigError, "how is 'x', but it must be a Reading"),
    "number of a name": (lambda _: hs.Reading(number=3), ConfigError, "--number is 3, but it must be a text"),
    "number of a data set": (lambda _: hs.Reading(dataset=3), ConfigError, "--dataset is 3, but it must be a text"),
    "name with a zero": (lambda _: hs.load_model("a\0b"), ConfigError, "must be the name of a file or folder"),
    "outside": (lambda it: hs.predict(it.model, it.slices, outside=300), ConfigError, "--outside is 300.*0 to 255"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence_and_nothing_is_written(
    what, tiny_dataset, run, models, volume, tmp_path, monkeypatch
):
    class It:
        data, model, slices = tiny_dataset, models[0], volume[:2]

    It.run = run
    monkeypatch.chdir(tmp_path)
    call, kind, words = REFUSED[what]
    with pytest.raises(HpcsegError, match=words) as refused:
        call(It)
    assert type(refused.value) is kind
    assert list(tmp_path.iterdir()) == []


def test_of_a_notebook_a_record_keeps_no_path_of_the_machine(monkeypatch, tiny_dataset, tmp_path):
    monkeypatch.setattr(sys, "argv", ["/env/ipykernel_launcher.py", "-f", "/home/me/kernel.json"])
    cell = hs.train(tiny_dataset, out=tmp_path / "run", settings={**SETTINGS, "train.epochs": 1})
    assert not [path.name for path in cell.glob("*.json*") if "/home/me" in path.read_text()]
    assert json.loads((cell / "config.json").read_text())["command"] == "hpcseg.api"


def test_numbers_and_paths_may_be_of_any_kind(good, models, volume, tmp_path):
    slices = volume[:1]
    for number, ignored in enumerate(
        ([255, 3], {255, 3}, np.array([255, 3]), {255: "a", 3: "b"}.keys(), iter([3, 255]))
    ):
        assert hs.pack(good, tmp_path / f"{number}.h5", ignore=ignored).ignored_values == (3, 255)
    for pair in ((0, 65_535), [0, 65_535], np.array([0.0, 65_535.0])):
        assert (hs.predict(models[0], slices, range_=pair, tile=32.0) == hs.predict(models[0], slices, tile=32)).all()
    hs.predict(models[0], slices, percentiles=np.percentile([0, 100], (1, 99)))
    classes = tmp_path / "classes.toml"
    classes.write_text("pore = 0\nsolid = 128\n")
    by_file = hs.pack(good, tmp_path / "file.h5", classes=classes, ignore=255)
    named = {"pore": np.int64(0), "solid": (np.uint8(128),)}
    by_name = hs.pack(good, tmp_path / "name.h5", classes=named, ignore=np.array([255]))
    assert by_file.class_names == by_name.class_names == ("pore", "solid")
    assert by_file.data_sha256 == by_name.data_sha256


def test_a_cell_may_be_named_by_the_folder_that_its_training_gave(tiny_dataset, tmp_path, cells):
    copy = tmp_path / "run"
    shutil.copytree(cells[0].parents[1], copy)
    second = copy / "cells" / cells[1].name
    assert hs.train(tiny_dataset, out=copy, settings=SETTINGS, cell=second) == second


def test_what_may_be_wrong_with_slices_and_labels_is_a_warning_or_told(good, tmp_path):
    label = np.zeros((40, 48), np.uint8)
    label[:20] = 255
    for number in (1, 3):
        tifffile.imwrite(good / f"labels/label{number}.tif", label)
    tifffile.imwrite(good / "labels/label2.tif", np.zeros((40, 48), np.uint8))
    with pytest.warns(UserWarning) as told:
        hs.pack(good, tmp_path / "a.h5")
    said = "1 of 3 slices have one class on every pixel, such as 0 in label2.tif"
    assert any(said in str(one.message) and one.filename == __file__ for one in told)
    notes = []
    hs.pack(good, tmp_path / "b.h5", on_note=notes.append)
    assert any("have one class on every pixel" in note for note in notes)


@pytest.mark.parametrize("dtype", [np.uint16, np.dtype("u2"), "uint16"])
def test_the_type_of_a_raw_file_may_be_a_type_of_numpy(tmp_path, dtype):
    np.arange(60, dtype=np.uint16).tofile(tmp_path / "a.raw")
    source = hs.open_source(tmp_path / "a.raw", hs.Reading(shape=(3, 4, 5), dtype=dtype))
    assert source.read(1)[0, 0] == 20
    for wrong in ({"dtype": object()}, {"header": "0"}, {"first": 1.5}, {"shape": 5}, {"shape": (3, 4, "5")}):
        with pytest.raises(ConfigError, match=f"--{next(iter(wrong))} is"):
            hs.Reading(**{"shape": (3, 4, 5), "dtype": "uint16", **wrong})


def test_a_picture_in_colour_is_refused_and_one_channel_behind_is_passed_over(models, volume):
    with pytest.raises(DatasetError, match=r"slices are \(H, W\) or \(N, H, W\), one number per pixel"):
        hs.predict(models[0], np.stack([volume[0]] * 3, axis=-1))
    np.testing.assert_array_equal(hs.predict(models[0], volume[0][..., None])[..., 0], hs.predict(models[0], volume[0]))
