"""A package for the BioImage Model Zoo passes the zoo's own test without network, and answers as the model does."""

from __future__ import annotations

import dataclasses
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from slice_folder import hpcseg

from hpcseg.data.pack import pack
from hpcseg.data.sample import write_sample
from hpcseg.data.store import read_info, read_slices
from hpcseg.errors import ConfigError, HpcsegError
from hpcseg.predict import bioimageio
from hpcseg.predict.model_file import Model, open_data
from hpcseg.segment.network import Network, Wishes

# bioimageio.spec leaves the files open that it has hashed.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
HALO, STEP = 24, 4  # of depth 2


@pytest.fixture(scope="module")
def core():
    return pytest.importorskip("bioimageio.core", reason="needs the extra hpcseg[bioimageio]")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        pytest.fail("there is no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def package(core, cells, tmp_path_factory) -> Path:
    """Written by the command."""
    folder = tmp_path_factory.mktemp("zoo")
    answer = hpcseg(
        "export", cells[0].path, "-o", folder / "m.safetensors", "--bioimageio", folder / "m.zip",
        "--author", "A. Person", "--author", "B. Person", "--license", "CC-BY-4.0",
    )  # fmt: skip
    assert answer.exit_code == 0 and "passes the test of bioimageio.core" in answer.output, answer.output
    again = hpcseg("export", cells[0].path, "-o", folder / "m.safetensors", "--bioimageio", folder / "m.zip")
    assert again.exit_code == 2 and "--force" in again.output
    return folder / "m.zip"


def ours(model: Model, image: np.ndarray) -> np.ndarray:
    """(C, H, W) probabilities of grey values (H, W) by the network as it was trained, mirrored at its edges."""
    mirrored = np.pad(model.card.grey.normalised(model.card.grey.limited(image)), HALO, mode="reflect")
    with torch.inference_mode():
        scores = model.network.eval()(torch.from_numpy(mirrored)[None, None])[0, :, HALO:-HALO, HALO:-HALO]
    return scores.softmax(0).numpy()


def theirs(core, package: Path, image: np.ndarray, **blocks) -> np.ndarray:
    """The same by bioimageio.core, in one piece or in blocks."""
    described = core.load_model_description(package)
    with core.create_prediction_pipeline(described) as pipeline:
        tensor = core.Tensor.from_numpy(image[None, None], dims=["batch", "channel", "y", "x"])
        sample = core.Sample(members={pipeline.input_ids[0]: tensor}, stat={}, id=None)
        predict = pipeline.predict_sample_with_blocking if blocks else pipeline.predict_sample_without_blocking
        (answer,) = predict(sample, **blocks).members.values()
    return answer.data.to_numpy()[0]


def test_the_zoo_s_own_test_is_passed_without_network(core, package, no_network):
    tested = core.test_description(package)
    assert tested.status == "passed", tested
    # A sample in a picture's format, beside the tensors, is all that the zoo misses.
    assert {warning.loc[-1] for warning in tested.warnings if warning.severity > 20} <= {"sample_tensor"}, tested


def test_it_says_what_it_takes_and_how_exactly_it_answers(core, package, model):
    described = core.load_model_description(package)
    (taken,), (answered,) = described.inputs, described.outputs
    assert [(axis.size.min, axis.size.step) for axis in taken.axes[2:]] == [(2 * HALO + STEP, STEP)] * 2
    assert taken.dtype == "uint16"
    assert (answered.axes[1].channel_names, answered.axes[2].halo) == (["0", "128", "255"], HALO)
    (tolerance,) = described.config.bioimageio.reproducibility_tolerance
    assert 0 < tolerance.absolute_tolerance <= 1e-3
    assert (tolerance.relative_tolerance, tolerance.mismatched_elements_per_million) == (0, 0)
    assert [author.name for author in described.authors] == ["A. Person", "B. Person"]
    assert str(described.license) == "CC-BY-4.0"
    page = described.documentation.get_reader().read().decode()
    assert model.card.model_sha256 in page and "| 128 | 128 |" in page and "## Validation" in page
    assert f"multiples of {STEP} from {2 * HALO + STEP} on" in page and "by 4 pixels above" in page


def test_its_answer_is_ours_on_a_slice_whole_or_in_blocks(core, package, model, tiny_dataset):
    (tolerance,) = core.load_model_description(package).config.bioimageio.reproducibility_tolerance
    image = read_slices(tiny_dataset, 5, 6)[0][0]
    wanted = ours(model, image)
    whole = theirs(core, package, image)
    assert whole.shape == (3, *image.shape)
    np.testing.assert_allclose(whole, wanted, rtol=0, atol=tolerance.absolute_tolerance)
    blocks = theirs(core, package, image, ns=8)
    np.testing.assert_allclose(blocks, wanted, rtol=0, atol=tolerance.absolute_tolerance)
    # `hpcseg predict` mirrors less at the edges, so what no edge has a part in.
    inner = (slice(HALO, -HALO),) * 2
    answer = Network([model.trained()], Wishes(), torch.device("cpu")).answer(model.card.grey.normalised(image), None)
    np.testing.assert_array_equal(whole.argmax(0)[inner], answer.classes[inner])


def test_floating_point_values_far_from_zero_and_beyond_the_limits_meet_the_network_as_with_us(core, model, tmp_path):
    write_sample(tmp_path, slices=6, size=40, seed=1)  # smaller than the least tile
    for file in (tmp_path / "data").iterdir():
        tifffile.imwrite(file, (7 + 1e-7 * tifffile.imread(file)).astype(np.float32))
    pack(tmp_path / "data", tmp_path / "labels", tmp_path / "floats.h5", command="test")
    info = read_info(tmp_path / "floats.h5")
    assert info.grey.limits is not None and info.grey.high - info.grey.low < 0.01
    card = dataclasses.replace(model.card, grey=info.grey, grey_dtype=info.dtype)
    floats = dataclasses.replace(model, card=card)
    tolerance = bioimageio.export_package(floats, info, tmp_path / "floats.zip")
    image = read_slices(info.path, 0, 1)[0][0]
    image[20, 20:22] = 1e9, -1e9
    answer = theirs(core, tmp_path / "floats.zip", image)
    np.testing.assert_allclose(answer, ours(floats, image), rtol=0, atol=tolerance)


def test_a_package_whose_answer_is_not_ours_is_not_written(core, model, cells, tmp_path, monkeypatch):
    preprocessing = bioimageio._preprocessing(model)
    monkeypatch.setattr(bioimageio, "_preprocessing", lambda model: preprocessing[:1])
    with pytest.raises(HpcsegError, match=r"m\.zip was not written: bioimageio\.core .* elements disagree"):
        bioimageio.export_package(model, open_data(cells[0]), tmp_path / "m.zip")
    assert not list(tmp_path.iterdir())


def test_what_the_zoo_does_not_take_is_refused_in_one_sentence(core, model, cells, tmp_path):
    with pytest.raises(ConfigError, match=r"m\.zip was not written, since the zoo takes no such license: Input") as bad:
        bioimageio.export_package(model, open_data(cells[0]), tmp_path / "m.zip", license_id="none of all")
    assert len(str(bad.value)) < 300
    data = dataclasses.replace(model.card.data, normalise="tile")
    tiles = dataclasses.replace(model, card=dataclasses.replace(model.card, data=data))
    with pytest.raises(ConfigError, match=r'data\.normalise = "tile", which says nothing of whole slices'):
        bioimageio.export_package(tiles, open_data(cells[0]), tmp_path / "m.zip")
    assert not list(tmp_path.iterdir())


def test_a_package_that_the_zoo_does_not_take_leaves_no_other_file_either(core, cells, tmp_path):
    command = ("export", cells[0].path, "-o", tmp_path / "m.safetensors", "--onnx", "--bioimageio", tmp_path / "m.zip")
    answer = hpcseg(*command, "--license", "none of all")
    assert answer.exit_code == 2 and "takes no such license" in answer.output
    assert not list(tmp_path.iterdir())


def test_without_its_package_it_is_refused_before_work(cells, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bioimageio.core", None)
    answer = hpcseg("export", cells[0].path, "-o", tmp_path / "m.safetensors", "--bioimageio", tmp_path / "m.zip")
    assert answer.exit_code == 2 and "pip install 'hpcseg[bioimageio]'" in answer.output
    alone = hpcseg("export", cells[0].path, "-o", tmp_path / "m.safetensors", "--license", "MIT")
    assert alone.exit_code == 2 and "--bioimageio FILE.zip" in alone.output
    assert not list(tmp_path.iterdir())
