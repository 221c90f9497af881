"""Whatever stands in prediction.json or in a journal, it is read or refused in a sentence that names the file."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tifffile
from slice_folder import hpcseg

from hpcseg.errors import ConfigError, IncompleteError
from hpcseg.predict.outcome import OutFolder
from hpcseg.predict.request import read_request
from hpcseg.predict.schema import SaidOfFiles
from hpcseg.slices.source import Reading

GONE = object()


@pytest.fixture(scope="module")
def finished(model_file, tiny_folder, tmp_path_factory):
    """The folder of a finished prediction of every second of four slices, and the command that made it."""
    folder = tmp_path_factory.mktemp("damaged")
    files = [tiny_folder / "data" / f"sample{number:04d}.tiff" for number in range(1, 5)]
    slices = np.stack([tifffile.imread(file)[:40, :48] for file in files])
    tifffile.imwrite(folder / "in.tif", slices, photometric="minisblack")
    options = ("--percentiles", 1, 99, "--every", 2, "--uncertainty")
    command = ("predict", model_file, folder / "in.tif", *options, "-o")
    assert hpcseg(*command, folder / "out").exit_code == 0
    return folder / "out", command


@pytest.fixture
def out(finished):
    """A copy of it."""
    copy = finished[0].with_name("copy")
    shutil.copytree(finished[0], copy)
    yield copy
    shutil.rmtree(copy)


def put(content, path, value):
    """Another value at a place of a record, or none."""
    *way, last = path
    for key in way:
        content = content[key]
    if value is GONE:
        del content[last]
    else:
        content[last] = value


RECORD = {
    "another schema": (("schema",), 2, "schema is 2"),
    "no schema": (("schema",), GONE, "it has no schema"),
    "nothing asked": (("asked",), None, "asked is None"),
    "models that are a text": (("asked", "models"), "0", "asked.models is '0'"),
    "a model that is none": (("asked", "models", 0), None, "asked.models[0] is None"),
    "percentiles of three": (("asked", "percentiles"), [0, 1, 2], "asked.percentiles is [0, 1, 2]"),
    "a percentile beyond all floats": (("asked", "percentiles"), [0, 10**400], "asked.percentiles[1] is 1000"),
    "every slice backwards": (("asked", "every"), -1, "asked.every is -1"),
    "a format of none": (("asked", "format"), "jpeg", "asked.format is 'jpeg'"),
    "a reading that nobody knows": (("asked", "reading"), {"turned": True}, "asked.reading is {'turned': True}"),
    "no input": (("input",), GONE, "it has no input"),
    "an input without a path": (("input", "path"), GONE, "it has no path"),
    "a mapping without a kind": (("mapping", "kind"), GONE, "it has no kind"),
    "a scale that is a text": (("mapping", "scale"), "1", "mapping.scale is '1'"),
    "layers in a list": (("layers",), [], "layers is []"),
    "a layer of no type": (("layers", "labels", "dtype"), "O", "layers is {'labels': "),
    "models in an object": (("models",), {}, "models is {}"),
    "no fractions": (("fractions",), GONE, "it has no fractions"),
    "seconds of yes": (("seconds",), True, "seconds is True"),
    "a device that is a number": (("devices",), [5], "devices[0] is 5"),
}


@pytest.mark.parametrize(("path", "value", "said"), RECORD.values(), ids=RECORD)
def test_a_record_that_holds_something_else_is_refused_in_a_sentence(finished, out, path, value, said):
    file = out / "prediction.json"
    record = json.loads(file.read_text())
    put(record, path, value)
    file.write_text(json.dumps(record))
    sentence = f"{file} is none that this hpcseg reads: {said}"
    for command in ((*finished[1], out), ("view", out)):
        answer = hpcseg(*command)
        assert answer.exit_code == 2 and sentence in answer.output, answer.output
    with pytest.raises(ConfigError) as told:
        read_request(out)
    assert str(told.value).startswith(sentence) and len(str(told.value)) < 500


LINE = {
    "no counts": ("index", ("counts",), GONE, "it has no counts"),
    "counts that are a text": ("index", ("counts",), "abc", "counts is 'abc'"),
    "a negative count": ("index", ("counts", 1), -1, "counts[1] is -1"),
    "a count of more than 64 bits": ("index", ("counts", 1), 2**70, f"counts[1] is {2**70}"),
    "an index that is a text": ("index", ("index",), "0", "index is '0'"),
    "an index of none": ("index", ("index",), None, "index is None"),
    "a share that is none": ("index", ("outside",), [], "outside is []"),
    "a hash that is a number": ("index", ("sha256",), 5, "sha256 is 5"),
    "a slice that was read and is none": ("place", ("place",), [0], "place is [0]"),
    "a start that is a number": ("start", ("start",), 7, "start is 7"),
    "a start without a device": ("start", ("start", "device"), GONE, "it has no device"),
    "seconds that are a text": ("seconds", ("seconds",), "long", "seconds is 'long'"),
    "a peak of none": ("seconds", ("peak_memory_mib",), None, "peak_memory_mib is None"),
}


def damage(out, kind, path, value):
    """Change the first line of a kind; its number."""
    journal = OutFolder(out).journal_file(None)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    number = next(number for number, line in enumerate(lines) if kind in line)
    put(lines[number], path, value)
    journal.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return number + 1


@pytest.mark.parametrize(("kind", "path", "value", "said"), LINE.values(), ids=LINE)
def test_a_line_of_the_journal_that_holds_something_else_is_named(finished, out, kind, path, value, said):
    number = damage(out, kind, path, value)
    journal = OutFolder(out).journal_file(None)
    answer = hpcseg(*finished[1], out)
    sentence = f"{journal} is damaged in line {number}: {said}. Delete that line"
    assert answer.exit_code == IncompleteError.exit_code and sentence in answer.output, answer.output
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines[: number - 1] + lines[number:]) + "\n")
    assert hpcseg(*finished[1], out).exit_code == 0


@pytest.mark.parametrize(("path", "value"), [(("counts",), [1, 2]), (("index",), 2)], ids=["counts", "index"])
def test_a_slice_of_other_classes_or_none_of_the_volume_is_named(finished, out, path, value):
    damage(out, "index", path, value)
    answer = hpcseg(*finished[1], out)
    assert answer.exit_code == IncompleteError.exit_code and "there are 2 slices and 3 classes" in answer.output


def test_what_no_hpcseg_of_today_writes_is_passed_over(finished, out):
    with OutFolder(out).journal_file(None).open("a") as file:
        file.write('{"of a later hpcseg": 1}\n[]\n5\nno line at all\n')
    answer = hpcseg(*finished[1], out)
    assert answer.exit_code == 0 and "nothing was written" in answer.output


def test_a_prediction_of_before_the_newer_keys_goes_on_and_keeps_what_it_has(finished, out):
    file = out / "prediction.json"
    record = json.loads(file.read_text())
    for name in ("reading", "format", "slices", "adapt_norm", "outside"):
        del record["asked"][name]
    for name in ("norm", "peak_memory_mib"):
        del record[name]
    del record["input"]["identity"], record["models"][0]["numerics"]
    file.write_text(json.dumps(record, indent=1) + "\n")
    answer = hpcseg(*finished[1], out)
    assert answer.exit_code == 0 and "nothing was written" in answer.output
    now = json.loads(file.read_text())
    assert {**now, "input": None} == {**record, "input": None} and list(now) == list(record)
    assert now["input"] == {**record["input"], "identity": now["input"]["identity"]}


def test_a_record_has_a_place_for_all_that_can_be_said_of_files():
    said = {item.name for item in dataclasses.fields(Reading)} - {"dataset", "are_labels"}  # a volume is none
    assert set(SaidOfFiles.__struct_fields__) == said
