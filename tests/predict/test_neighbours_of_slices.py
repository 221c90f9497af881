"""Models that see neighbouring slices: each slice of a volume is segmented with those beside it, and read once."""

from __future__ import annotations

import collections
import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch
from finished_cells import planned
from predicted_slices import predicted, recorded
from slice_folder import hpcseg

from hpcseg.api import load_model
from hpcseg.api import predict as predict_array
from hpcseg.config import CellConfig, DataConfig, EvaluateConfig, TrainConfig
from hpcseg.data.batches import open_source
from hpcseg.data.pack import pack
from hpcseg.data.store import read_info, read_slices
from hpcseg.predict import work as working
from hpcseg.predict.bioimageio import _channels, _example
from hpcseg.predict.model_file import Model, export, open_cell, open_file
from hpcseg.predict.request import Request, begin, part_of, read_request
from hpcseg.runs.execute import run_cell
from hpcseg.runs.grid import Cell
from hpcseg.segment.network import Network, Wishes

HOLE = 9
"""So many slices are numbered 1 to 9, and those behind them 11 to 17."""


@pytest.fixture(scope="module")
def dataset(tiny_folder, tmp_path_factory) -> Path:
    """The sample's 16 slices, of whose numbers one is missing."""
    folder = tmp_path_factory.mktemp("hole")
    for kind in ("data", "labels"):
        (folder / kind).mkdir()
        for place, file in enumerate(sorted((tiny_folder / kind).iterdir()), start=1):
            number = place + (place > HOLE)
            (folder / kind / f"s{number:02d}.tif").symlink_to(file)
    pack(folder / "data", folder / "labels", folder / "hole.h5", command="test")
    return folder / "hole.h5"


@pytest.fixture(scope="module")
def cell(dataset, tmp_path_factory) -> Cell:
    """One with two neighbours on each side, that is tested beside the hole."""

    def tested_there(data: DataConfig) -> bool:
        return bool({HOLE - 1, HOLE} & set(open_source(dataset, data).test_slices().tolist()))

    seeds = (DataConfig(tiles="4x4", tile_size=64, split="blocked", split_seed=n, context=2) for n in range(50))
    config = CellConfig(
        data=next(filter(tested_there, seeds)),
        train=TrainConfig(width=4, depth=2, epochs=20, batch_size=4, learning_rate=0.003, precision="fp32"),
        evaluate=EvaluateConfig(whole_slices=True),
    )
    grid = planned(tmp_path_factory.mktemp("context"), dataset, config)
    for stage in ("train", "evaluate"):
        assert run_cell(grid.cells[0].folder, stage, should_stop=lambda: False) == "finished"
    return grid.cells[0]


@pytest.fixture(scope="module")
def model_file(cell, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("models") / "context.safetensors"
    export(open_cell(cell.folder), file)
    return file


@pytest.fixture(scope="module")
def model(model_file) -> Model:
    return open_file(model_file)


def answer(model: Model, slices: np.ndarray) -> np.ndarray:
    """(H, W) label values of (5, H, W) grey values."""
    network = Network([model.trained()], Wishes(), torch.device("cpu"))
    classes = network.answer(model.card.grey.normalised(slices), None).classes
    return np.array(model.card.class_values)[classes]


@pytest.fixture(scope="module")
def whole(model_file, dataset, tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A prediction of all slices of the packed file, and its labels."""
    out = tmp_path_factory.mktemp("whole") / "out"
    predicted(model_file, dataset, out)
    with h5py.File(out / "labels.h5") as file:
        return out, file["labels"][:]


def test_the_card_says_how_many_slices_the_network_takes(model, cell):
    assert model.card.data.context == 2
    assert model.network.down[0][0].weight.shape[1] == 5
    for name, tensor in open_cell(cell.folder).network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], tensor)


def test_predicting_gives_the_matrices_of_the_evaluation_also_beside_a_hole(cell, model_file, dataset, tmp_path):
    expected = recorded(cell.folder)
    assert read_info(dataset).numbers[[HOLE - 1, HOLE]].tolist() == [9, 11] and {9, 11} & expected.keys()
    assert all(np.count_nonzero(np.sum(matrix, 0)) > 1 for matrix in expected.values())
    for name, source in (("cell", cell.folder.path), ("file", model_file)):
        found = predicted(source, dataset, tmp_path / name)
        assert {number: found[number] for number in expected} == expected


@pytest.mark.parametrize(
    ("index", "around"),
    [(0, (0, 0, 0, 1, 2)), (7, (5, 6, 7, 8, 8)), (9, (9, 9, 9, 10, 11)), (15, (13, 14, 15, 15, 15))],
)
def test_each_slice_is_segmented_with_those_beside_it(whole, model, dataset, index, around):
    images, _ = read_slices(dataset, 0, 16)
    np.testing.assert_array_equal(whole[1][index], answer(model, images[list(around)]))
    assert not np.array_equal(whole[1][index], answer(model, images[[index] * 5])), "neighbours matter here"


def test_parts_are_the_whole_and_each_reads_a_slice_once(whole, tmp_path, monkeypatch):
    out, labels = whole
    begin(dataclasses.replace(read_request(out), out=tmp_path / "parts"))
    read: collections.Counter[int] = collections.Counter()
    real = working._read

    def counted(prediction, place):
        read[place] += 1
        return real(prediction, place)

    monkeypatch.setattr(working, "_read", counted)
    for part, needed in ((1, range(3, 13)), (2, range(9, 16)), (0, range(7))):
        prediction = begin(read_request(tmp_path / "parts"))
        read.clear()
        assert working.work(prediction, part_of(prediction.missing(), 16, part, 3), part=part)
        # Part 1 is 5 to 9, of which 9 is behind the hole and sees 10 and 11; part 2 is 10 to 15, part 0 is 0 to 4.
        assert set(read) <= set(needed) and set(read.values()) == {1}, part
    working.finish(begin(read_request(tmp_path / "parts")))
    with h5py.File(tmp_path / "parts" / "labels.h5") as file:
        np.testing.assert_array_equal(file["labels"], labels)


@pytest.mark.parametrize(
    ("options", "chosen"), [(("--slices", "4-7"), slice(3, 7)), (("--every", "3"), slice(0, 16, 3))]
)
def test_some_slices_are_segmented_as_among_all(whole, model_file, dataset, tmp_path, options, chosen):
    answered = hpcseg("predict", model_file, dataset, "-o", tmp_path / "out", *options)
    assert answered.exit_code == 0, answered.output
    with h5py.File(tmp_path / "out" / "labels.h5") as file:
        np.testing.assert_array_equal(file["labels"], whole[1][chosen])


@pytest.mark.parametrize(("changed", "told"), [(5, True), (6, True), (13, False)])
def test_a_neighbour_that_was_changed_since_is_told_though_it_is_not_segmented(
    model_file, tiny_folder, tmp_path, changed, told
):
    (tmp_path / "in").mkdir()
    for place, file in enumerate(sorted((tiny_folder / "data").iterdir())):
        tifffile.imwrite(tmp_path / "in" / f"s{place:02d}.tif", tifffile.imread(file))
    request = Request(models=(model_file,), source=tmp_path / "in", out=tmp_path / "out", slices=(8, 12))
    assert working.work(begin(request), [0])  # the eighth slice, with those at the places 5 to 9
    file = tmp_path / "in" / f"s{changed:02d}.tif"
    tifffile.imwrite(file, tifffile.imread(file) // 2)
    answered = hpcseg("predict", model_file, tmp_path / "in", "-o", tmp_path / "out", "--slices", "8-12")
    assert (answered.exit_code, f"have other pixels now: {file.name}" in answered.output) == (2 if told else 0, told)


def test_an_array_is_a_stack_without_holes(whole, model_file, dataset):
    images, _ = read_slices(dataset, 0, 9)
    model = load_model(model_file)
    found = predict_array(model, images)
    np.testing.assert_array_equal(found, whole[1][:9])
    np.testing.assert_array_equal(predict_array(model, images[4]), answer(model, images[[4] * 5]))


def test_statistics_of_a_volume_are_those_of_all_channels(model_file, dataset, whole, tmp_path):
    answered = hpcseg("predict", model_file, dataset, "-o", tmp_path / "out", "--adapt-norm")
    assert answered.exit_code == 0, answered.output
    with h5py.File(tmp_path / "out" / "labels.h5") as file:
        # The slices are those of the training, so most of the labels are the same.
        assert (file["labels"][:] == whole[1]).mean() > 0.8


def test_slices_to_label_are_suggested(cell, tiny_folder, tmp_path):
    rng = np.random.default_rng(0)
    for number, file in enumerate(sorted((tiny_folder / "data").iterdir())[:6]):
        strange = (
            rng.permutation(tifffile.imread(file).ravel()).reshape(128, 128) if number > 3 else tifffile.imread(file)
        )
        tifffile.imwrite(tmp_path / f"scan{number}.tif", strange)
    answered = hpcseg("suggest", cell.folder.path, tmp_path, "-n", "2", "--json")
    assert answered.exit_code == 0, answered.output
    told = json.loads(answered.stdout)
    assert told["labelled"] == [f"scan{number}.tif" for number in range(4)]
    assert {pick["name"] for pick in told["picks"]} == {"scan4.tif", "scan5.tif"}


def test_what_cannot_be_is_refused_in_a_sentence(model_file, cells, dataset, tiny_folder, tmp_path):
    both = hpcseg("predict", model_file, dataset, "-o", tmp_path / "out", "--ensemble", cells[0].path)
    assert both.exit_code == 2 and "cannot be one ensemble: their" in both.stderr
    first, second = (tifffile.imread(file) for file in sorted((tiny_folder / "data").iterdir())[:2])
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a1.tif", first)
    tifffile.imwrite(tmp_path / "in" / "a2.tif", second[:100])
    sizes = hpcseg("predict", model_file, tmp_path / "in", "-o", tmp_path / "out")
    assert sizes.exit_code == 3 and "slices of several sizes" in sizes.stderr and "(data.context = 2)" in sizes.stderr
    assert not (tmp_path / "out").exists()


def test_other_programs_are_told_the_channels(model, dataset):
    assert _channels(model) == ["slice-2", "slice-1", "grey", "slice+1", "slice+2"]
    (example,) = _example(model, read_info(dataset))
    # The middle slice is the last before the hole; an edge of 64 pixels is that of a tile.
    images, _ = read_slices(dataset, 6, 9)
    np.testing.assert_array_equal(example, images[[0, 1, 2, 2, 2], 32:96, 32:96])


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx_takes_all_channels_and_answers_as_the_model_does(model, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra hpcseg[onnx]")
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra hpcseg[onnx]")
    from hpcseg.predict.onnx_file import export_onnx

    assert export_onnx(model, tmp_path / "m.onnx") < 1e-4
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    image = np.random.default_rng(0).random((2, 5, 20, 44), dtype=np.float32)
    (scores,) = session.run(["scores"], {"images": image})
    with torch.inference_mode():
        np.testing.assert_allclose(scores, model.network.eval()(torch.from_numpy(image)), atol=1e-4)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of bioimageio.spec
def test_a_package_of_several_channels_passes_the_zoo_s_own_test(cell, tmp_path):
    pytest.importorskip("bioimageio.core", reason="needs the extra hpcseg[bioimageio]")
    answer = hpcseg(
        "export", cell.folder.path, "-o", tmp_path / "m.safetensors", "--bioimageio", tmp_path / "m.zip",
        "--author", "A. Person", "--license", "CC-BY-4.0",
    )  # fmt: skip
    assert answer.exit_code == 0 and "passes the test of bioimageio.core" in answer.output, answer.output


def test_a_folder_with_a_hole_is_segmented_as_the_packed_slices(model_file, dataset, tiny_folder, whole, tmp_path):
    (tmp_path / "in").mkdir()
    for place, file in enumerate(sorted((tiny_folder / "data").iterdir()), start=1):
        (tmp_path / "in" / f"s{place + (place > HOLE):02d}.tif").symlink_to(file)
    answer = hpcseg("predict", model_file, tmp_path / "in", "-o", tmp_path / "out", "--format", "hdf5")
    assert answer.exit_code == 0, answer.output
    with h5py.File(tmp_path / "out" / "labels.h5") as file:
        assert np.array_equal(file["labels"][:], whole[1])


def test_slices_of_which_none_follows_another_have_no_neighbours(model_file, cell, tiny_folder, tmp_path):
    (tmp_path / "in").mkdir()
    for place, file in enumerate(sorted((tiny_folder / "data").iterdir())[:3]):
        (tmp_path / "in" / f"s{10 * place:02d}.tif").symlink_to(file)
    answer = hpcseg("predict", model_file, tmp_path / "in", "-o", tmp_path / "out")
    suggested = hpcseg("suggest", cell.folder.path, tmp_path / "in", "-n", "1")
    for refused in (answer, suggested):
        assert refused.exit_code == 2 and "follow each other nowhere (0, 10, 20)" in " ".join(refused.stderr.split())
