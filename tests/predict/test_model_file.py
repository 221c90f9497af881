"""A model file gives back the bits of the trained cell, and nothing that it holds is ever run."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import struct
import sys
import zipfile

import h5py
import numpy as np
import pytest
import torch
from slice_folder import hpcseg

from hpcseg.data.grey import GreyScale
from hpcseg.errors import DatasetError, HpcsegError, IncompleteError
from hpcseg.learn import checkpoint
from hpcseg.predict import model_file as model_files
from hpcseg.predict.card import read_card
from hpcseg.predict.model_file import export, open_cell, open_file
from hpcseg.runs.record import read_json, with_checksum, write_record
from hpcseg.segment.network import Network, Wishes


def test_weights_come_back_bit_by_bit_and_answer_alike(cells, model_file, tmp_path):
    cell, model = open_cell(cells[0]), open_file(model_file)
    trained = checkpoint.load(cells[0].model_file)
    assert trained.keys() == model.network.state_dict().keys()
    for name, tensor in model.network.state_dict().items():
        assert tensor.dtype == trained[name].dtype and torch.equal(tensor, trained[name]), name
    image = torch.rand(1, 1, 36, 52)
    with torch.inference_mode():
        assert torch.equal(model.network.eval()(image), cell.network.eval()(image))
    assert export(model, tmp_path / "again.safetensors") == model_file.read_bytes()


def test_the_card_has_what_the_labels_and_slices_were(cells, model_file, tiny_dataset):
    card = open_file(model_file).card
    with h5py.File(tiny_dataset) as file:
        pixels = file["slices"][:]
    assert (card.class_values, card.label_dtype, card.grey_dtype) == ((0, 128, 255), "uint8", "uint16")
    ends = tuple(np.percentile(pixels, (0.1, 99.9), method="inverted_cdf"))
    assert (card.grey.low, card.grey.high, card.grey.quantiles) == (0, 65_535, ends)
    assert card.grey_range == pytest.approx(ends)
    for per_cent in (1, 50, 99.5):
        assert card.quantile(per_cent) == np.percentile(pixels, per_cent, method="inverted_cdf")
    record = read_json(cells[0].training_file)
    assert card.training.cell == cells[0].id and card.training.data_sha256 == record["provenance"]["data_sha256"]
    assert card.training.test_accuracy[0].sigma == 0
    assert (card.train.width, card.train.depth, card.data.tile_size) == (4, 2, 64)
    assert card.model_sha256 == record["model_sha256"]


def test_info_shows_what_a_model_takes_and_answers_and_how_right_it_is(cells, model_file, tmp_path):
    answer = hpcseg("info", model_file)
    assert answer.exit_code == 0, answer.output
    record = read_json(cells[0].training_file)
    (clean, *_), words = read_json(cells[0].evaluation_file)["points"], " ".join(answer.stdout.split())
    for said in ("0, 128, 255", "width 4 and depth 2", record["provenance"]["data_sha256"], cells[0].id):
        assert said in words
    assert f"{100 * clean['accuracy']:.2f} % clean" in words
    card = json.loads(json.dumps(open_file(model_file).card.as_dict()))
    assert json.loads(hpcseg("info", model_file, "--json").stdout) == card
    spoiled = tmp_path / "m.safetensors"
    spoiled.write_bytes(model_file.read_bytes()[:100])
    answer = hpcseg("info", spoiled)
    assert answer.exit_code == 1 and "no model file that can be used" in answer.stderr


def header(content):
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(table, rest):
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + rest


def with_card(content, *, sealed=True, **changes):
    """The same file with a card that says something else; sealed: under a checksum of its own."""
    table, rest = header(content)
    card = json.loads(table["__metadata__"]["hpcseg"])
    for path, value in changes.items():
        *sections, key = path.split("__")
        at = card
        for section in sections:
            at = at[section]
        at[key] = value
    table["__metadata__"]["hpcseg"] = json.dumps(with_checksum(card) if sealed else card)
    return with_header(table, rest)


@pytest.mark.parametrize(
    ("key", "value"),
    [("grey__high", 65_534.0), ("class_values", [0, 127, 255]), ("class_names", ["0", "128", "254"]), ("schema", 2)],
)
def test_a_changed_digit_of_the_card_is_noticed(model_file, tmp_path, key, value):
    file = tmp_path / "model.safetensors"
    file.write_bytes(with_card(model_file.read_bytes(), sealed=False, **{key: value}))
    with pytest.raises(HpcsegError, match="was changed after it was written, by its checksum"):
        open_file(file)
    file.write_bytes(with_card(model_file.read_bytes(), sealed=True, **{key: value}))
    open_file(file)


def test_a_card_that_lost_its_checksum_is_refused_and_one_of_before_there_was_one_is_not(model_file, tmp_path):
    table, rest = header(model_file.read_bytes())
    card = json.loads(table["__metadata__"]["hpcseg"])
    del card["content_sha256"]
    file = tmp_path / "model.safetensors"
    for schema, usable in ((3, False), (2, True)):
        table["__metadata__"]["hpcseg"] = json.dumps({**card, "schema": schema})
        file.write_bytes(with_header(table, rest))
        if usable:
            open_file(file)
        else:
            with pytest.raises(HpcsegError, match="by its checksum"):
                open_file(file)


class Hostile:
    def __reduce__(self):
        return (pytest.fail, ("code of a model file was run",))


def test_a_model_file_of_before_there_were_grey_scales_divides_by_its_full_scale(model_file, tmp_path):
    older = tmp_path / "older.safetensors"
    older.write_bytes(with_card(model_file.read_bytes(), schema=1, full_scale=1_000.0, grey=None))
    assert open_file(older).card.grey == GreyScale(0.0, 1_000.0)


SPOILED = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "a header of all memory": lambda content: struct.pack("<Q", 2**62) + content[8:],
    "text": lambda content: b"no model at all, only a few words",
    "nested": lambda content: with_header({"__metadata__": {"hpcseg": "[" * 100_000}}, b""),
    "no card": lambda content: with_header({}, b""),
    "another's card": lambda content: with_header({"__metadata__": {"format": "pt"}}, b""),
    "a weight changed": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "newer": lambda content: with_card(content, schema=99),
    "other format": lambda content: with_card(content, format="elsewhere"),
    "wider": lambda content: with_card(content, train__width=4096, train__depth=8),
    "too wide": lambda content: with_card(content, train__width=10**12),
    "a setting too many": lambda content: with_card(content, train__hidden=1),
    "no classes": lambda content: with_card(content, class_values=[]),
    "other classes": lambda content: with_card(content, class_values=[0, 128]),
    "texts for classes": lambda content: with_card(content, class_values=["a", "b", "c"]),
    "labels too large": lambda content: with_card(content, class_values=[0, 128, 300]),
    "no dtype": lambda content: with_card(content, label_dtype="O"),
    "a dtype of many numbers": lambda content: with_card(content, label_dtype="10000000u8"),
    "a dtype that is no Python": lambda content: with_card(content, label_dtype="u1,("),
    "a book for a dtype": lambda content: with_card(content, label_dtype="u" * 3_000_000),
    "a book for a key": lambda content: with_card(content, **{"train__" + "k" * 3_000_000: 1}),
    "unknown dtype": lambda content: with_card(content, grey_dtype="grey"),
    "nothing to divide by": lambda content: with_card(content, grey__high=0),
    "not finite": lambda content: with_card(content, grey__low=float("nan")),
    "no grey scale": lambda content: with_card(content, grey=None),
    "quantiles": lambda content: with_card(content, grey_quantiles=[1, 2]),
    "an unknown precision": lambda content: with_card(content, training__precision="bf8"),
    "no precision": lambda content: with_card(content, training={"cell": "a"}),
    "no training": lambda content: with_card(content, training=None),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_spoiled_file_is_refused_in_one_sentence(model_file, tmp_path, spoil):
    file = tmp_path / "model.safetensors"
    file.write_bytes(spoil(model_file.read_bytes()))
    with pytest.raises(
        HpcsegError, match=r"model\.safetensors is no model file that can be used: .*hpcseg export"
    ) as told:
        open_file(file)
    assert len(str(told.value)) < 1_000


def with_weights(content, change):
    table, rest = header(content)
    change(table)
    return with_header(table, rest)


WEIGHTS = {
    "missing": (lambda table: table.update(other=table.pop("head.weight")), r"it has no weights head\.weight"),
    "too many": (
        lambda table: table.update({"x" * 10_000: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}),
        r"it has weights x{100}\.\.\., which the U-Net that it describes has not",
    ),
    "other shape": (
        lambda table: table["head.weight"].update(shape=table["head.weight"]["shape"][::-1]),
        r"its weights head\.weight are \(1, 1, 4, 3\) F32, and the U-Net that it describes has \(3, 4, 1, 1\) F32",
    ),
    "other type": (
        lambda table: table["head.weight"].update(dtype="I32"),
        r"its weights head\.weight are \(3, 4, 1, 1\) I32, .* has \(3, 4, 1, 1\) F32",
    ),
}


@pytest.mark.parametrize("wrong", WEIGHTS)
def test_the_weights_that_are_wrong_are_named_before_any_is_loaded(model_file, tmp_path, wrong, monkeypatch):
    change, told = WEIGHTS[wrong]
    file = tmp_path / "model.safetensors"
    file.write_bytes(with_weights(model_file.read_bytes(), change))
    monkeypatch.setattr(model_files, "weights_sha256", lambda weights: pytest.fail("they were loaded"))
    with pytest.raises(HpcsegError, match=told):
        open_file(file)


def test_a_file_larger_than_memory_is_refused_unread(model_file, tmp_path):
    """4 TiB, of which a few bytes are on the disk, in a tensor of its own."""
    table, rest = header(model_file.read_bytes())
    table["much"] = {"dtype": "U8", "shape": [2**42], "data_offsets": [len(rest), len(rest) + 2**42]}
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(with_header(table, rest))
        file.truncate(file.tell() + 2**42)
    with pytest.raises(HpcsegError, match=r"has 4096 GiB, and [\d.]+ GiB of memory are free"):
        open_file(tmp_path / "model.safetensors")


@pytest.mark.usefixtures("bounded")
def test_any_bytes_in_a_header_are_a_model_or_a_sentence(model_file, tmp_path):
    """300 files with some bytes of the table and the card changed."""
    content, random, refused = model_file.read_bytes(), np.random.default_rng(20), 0
    length = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(300):
        spoiled = bytearray(content)
        for place in random.integers(0, length, random.integers(1, 5)):
            spoiled[place] = random.choice([0, 1, 34, 48, 57, 127, 255, random.integers(256)])
        (tmp_path / "a.safetensors").write_bytes(spoiled)
        try:
            open_file(tmp_path / "a.safetensors")
        except HpcsegError as error:
            assert len(str(error)) < 4_000
            refused += 1
    assert refused > 100


def test_a_cell_that_lies_about_its_network_costs_no_memory(cells, tmp_path, tiny_dataset):
    folder = type(cells[0])(tmp_path / "lies")
    shutil.copytree(cells[0].path, folder.path)
    planned = read_json(folder.config_file)
    write_record(folder.config_file, {**planned, "train": {**planned["train"], "width": 4096, "depth": 8}})
    with pytest.raises(HpcsegError, match=r"model\.pt does not hold the U-Net that config\.json describes"):
        open_cell(folder, tiny_dataset)


def test_a_pickle_is_refused_unread(tmp_path, cells):
    torch.save({"weights": Hostile()}, tmp_path / "model.pt")
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Hostile()))
    for name in ("model.pt", "model.pkl"):
        with pytest.raises(HpcsegError, match=r"can hold code, so it is not loaded.*cell's folder"):
            open_file(tmp_path / name)
    with pytest.raises(IncompleteError, match="There is no model file"):
        open_file(tmp_path / "none")
    with pytest.raises(HpcsegError, match="no regular file"):
        open_file(tmp_path)


def test_the_command_writes_the_file_and_replaces_no_other(cells, tmp_path, model_file):
    file = tmp_path / "m.safetensors"
    answer = hpcseg("export", cells[0].id, "--run", cells[0].path.parents[1], "-o", file)
    assert answer.exit_code == 0 and "classes 0, 128, 255" in answer.output
    assert file.read_bytes() == model_file.read_bytes()
    assert hpcseg("export", cells[0].path, "-o", file).exit_code == 0
    other = hpcseg("export", cells[1].path, "-o", file)
    assert other.exit_code == 2 and "--force" in other.output
    assert hpcseg("export", cells[1].path, "-o", file, "--force").exit_code == 0
    several = hpcseg("export", "2x2-*", "--run", cells[0].path.parents[1], "-o", file)
    assert several.exit_code == 2 and "fits 2 trained cells" in several.output


MIXED = {
    "a zip as the model file": (("-o", "m.zip", "--bioimageio", "m.zip"), r"--output is m\.zip, .*FILE\.safetensors"),
    "an ONNX file as that": (("-o", "m.onnx"), r"--output is m\.onnx, .*FILE\.safetensors"),
    "a packed file as that": (("-o", "m.h5", "--force"), r"--output is m\.h5, .*FILE\.safetensors"),
    "an ONNX file as the package": (
        ("-o", "m.safetensors", "--onnx", "--bioimageio", "m.onnx"),
        r"--bioimageio is m\.onnx, .*FILE\.zip",
    ),
    "a folder as the package": (("--bioimageio", "m"), r"--bioimageio is m, .*FILE\.zip"),
    "one file by two names": (("-o", "m.safetensors", "--bioimageio", "link.zip", "--force"), "are the same file"),
}


@pytest.mark.parametrize(("options", "told"), MIXED.values(), ids=MIXED)
def test_outputs_of_another_kind_or_of_one_name_are_refused_before_any_is_written(
    cells, tmp_path, monkeypatch, options, told
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.zip").symlink_to("m.safetensors")
    answer = hpcseg("export", cells[0].path, *options)
    assert answer.exit_code == 2 and re.search(told, answer.output), answer.output
    assert [path.name for path in tmp_path.iterdir()] == ["link.zip"]


def test_a_name_without_a_suffix_or_with_a_number_is_one_of_a_model_file(cells, tmp_path, model_file):
    for name in ("mine", "sigma-0.5"):
        assert hpcseg("export", cells[0].path, "-o", tmp_path / name).exit_code == 0
        assert (tmp_path / name).read_bytes() == model_file.read_bytes()


def test_a_data_set_that_moved_is_named_or_asked_for(cells, tmp_path, tiny_dataset, good):
    folder = type(cells[0])(tmp_path / "moved")
    folder.path.mkdir()
    for file in cells[0].path.iterdir():
        (folder.path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(IncompleteError, match="--data FILE"):
        open_cell(folder)
    assert open_cell(folder, tiny_dataset).card == open_cell(cells[0]).card
    assert hpcseg("pack", good, "-o", tmp_path / "other.h5").exit_code == 0
    with pytest.raises(DatasetError, match="holds other data"):
        open_cell(folder, tmp_path / "other.h5")


def test_an_onnx_file_is_called_that_and_the_other_file_named(tmp_path):
    (tmp_path / "m1.onnx").write_bytes(b"onnx")
    with pytest.raises(HpcsegError, match=r"is an ONNX file, .*the \.safetensors that `hpcseg export` wrote beside it"):
        open_file(tmp_path / "m1.onnx")


def test_what_a_card_cannot_have_is_told_with_one_full_stop(model, tmp_path):
    content = model.card.as_dict()
    with pytest.raises(ValueError, match=r"train\.width is 1000000000, .* channels$"):
        read_card({**content, "train": {**content["train"], "width": 10**9}})


def test_a_zip_file_is_called_what_it_is(tmp_path):
    for name, inside, told in (
        ("m.zip", "rdf.yaml", r"is a package for the BioImage Model Zoo, .*the \.safetensors that `hpcseg export`"),
        ("m.pt", "model/data.pkl", "is a PyTorch or pickle file"),
        ("slices.zip", "a.tif", "is a zip file, and no model file"),
    ):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(inside, "x")
        with pytest.raises(HpcsegError, match=told):
            open_file(tmp_path / name)
    (tmp_path / "half.zip").write_bytes((tmp_path / "m.zip").read_bytes()[:50])
    with pytest.raises(HpcsegError, match="is a zip file, and no model file"):
        open_file(tmp_path / "half.zip")


def test_an_untrained_cell_is_told_so(cells, tmp_path):
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "config.json").write_bytes(cells[0].config_file.read_bytes())
    with pytest.raises(IncompleteError, match="not trained yet"):
        open_cell(type(cells[0])(tmp_path / "cell"))


def test_onnx_without_its_packages_is_refused_before_work(cells, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    answer = hpcseg("export", cells[0].path, "-o", tmp_path / "m.safetensors", "--onnx")
    assert answer.exit_code == 2 and "pip install 'hpcseg[onnx]'" in answer.output
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx_answers_as_the_model_does(model, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra hpcseg[onnx]")
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra hpcseg[onnx]")
    from hpcseg.predict.onnx_file import export_onnx

    assert export_onnx(model, tmp_path / "m.onnx") < 1e-4
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    image = np.random.default_rng(0).random((2, 1, 20, 44), dtype=np.float32)
    (scores,) = session.run(["scores"], {"images": image})
    with torch.inference_mode():
        np.testing.assert_allclose(scores, model.network.eval()(torch.from_numpy(image)), atol=1e-4)
    assert json.loads(session.get_modelmeta().custom_metadata_map["hpcseg"])["class_values"] == [0, 128, 255]
    # The sizes and numbers that it is described with, for slices that are no multiple of 4 and less than a tile of 64.
    told = session.get_modelmeta().description
    assert "multiples of 4." in told and "no less than 64." in told and 'mode="reflect"): by 4 pixels above' in told
    for height, width, padded in ((61, 83, (72, 92)), (40, 50, (64, 64))):
        image = np.random.default_rng(0).random((height, width), dtype=np.float32)
        around = [(4, full - length - 4) for full, length in zip(padded, (height, width), strict=True)]
        (scores,) = session.run(["scores"], {"images": np.pad(image, around, mode="reflect")[None, None]})
        labels = scores[0, :, 4 : 4 + height, 4 : 4 + width].argmax(0)
        answer = Network([model.trained("fp32")], Wishes(), torch.device("cpu")).answer(image, None)
        np.testing.assert_array_equal(labels, answer.classes)
        assert len(np.unique(labels)) > 1
