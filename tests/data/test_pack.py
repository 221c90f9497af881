"""`hpcseg pack`, as users call it: all of a folder goes into one file, whatever it is called and however compressed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from slice_folder import hpcseg, write_image, write_label

from hpcseg.data import store
from hpcseg.data.pack import pack, processes_for
from hpcseg.data.pairs import Pairs
from hpcseg.errors import ConfigError, DatasetError
from hpcseg.slices.source import Source


def test_pack_writes_what_info_then_verifies(good, output):
    packed = hpcseg("pack", good, "-o", output)
    assert packed.exit_code == 0, packed.output
    assert sorted(output.parent.iterdir()) == [output.with_name("packed-sheet.png"), output]

    checked = hpcseg("info", output, "--verify", "--json")
    assert checked.exit_code == 0
    assert "3 slices and labels match" in checked.stderr
    summary = json.loads(checked.stdout)
    assert summary["shape"] == [3, 40, 48]
    assert summary["class_values"] == [0, 128, 255]
    # 40 x 48 pixels are 640 times the three values.
    assert summary["class_shares"] == pytest.approx([1 / 3] * 3, abs=1e-6)
    assert (summary["grey_min"], summary["grey_max"]) == (1000, 1049)
    assert summary["tiles"] == {"small": None, "large": None}


def test_info_counts_the_tiles_of_each_size(tiny_dataset):
    # 16 slices of 128 x 128 pixels: one tile each.
    assert json.loads(hpcseg("info", tiny_dataset, "--json").stdout)["tiles"] == {"small": 16, "large": None}


def test_info_shows_the_shares_for_people_too(good, output):
    hpcseg("pack", good, "-o", output)
    shown = hpcseg("info", output)
    assert "3 of 40 x 48 pixels, uint16" in shown.stdout
    assert "33.3%" in shown.stdout
    assert "small does not fit (128 pixels)" in shown.stdout


@pytest.mark.parametrize(
    ("dtype", "full_scale"),
    # float32 has no natural end: the largest grey value, 49 + 100, is the full scale.
    [("uint8", 255), ("uint16", 65_535), ("float32", 149)],
)
def test_full_scale_is_the_largest_of_the_type_or_of_floating_point_data(good, output, dtype, full_scale):
    for number in (1, 2, 3):
        write_image(good, number, value=100, dtype=dtype)
    info = pack(good / "data", good / "labels", output, command="test")
    assert (info.dtype, info.full_scale) == (dtype, full_scale)


def test_stacks_and_folders_of_any_compression_and_name_have_the_same_hash(good, output):
    info = pack(good / "data", good / "labels", output, command="test")
    images = np.stack([tifffile.imread(good / "data" / f"image{number}.tif") for number in (1, 2, 3)])
    labels = np.stack([tifffile.imread(good / "labels" / f"label{number}.tif") for number in (1, 2, 3)])
    tifffile.imwrite(good / "images.tif", images, byteorder=">", compression="lzw", photometric="minisblack")
    tifffile.imwrite(good / "labels.tif", labels, bigtiff=True, photometric="minisblack")

    result = hpcseg("pack", "--images", good / "images.tif", "--labels", good / "labels.tif", "-o", output, "--force")

    assert result.exit_code == 0, result.output
    stacks = store.read_info(output)
    assert stacks.data_sha256 == info.data_sha256
    assert stacks.image_names == ("images.tif#1", "images.tif#2", "images.tif#3")


@pytest.mark.parametrize("changed", ["pixel", "label", "number"])
def test_the_hash_changes_with_a_pixel_a_label_and_a_number(good, output, changed):
    before = pack(good / "data", good / "labels", output, command="test").data_sha256
    if changed == "pixel":
        write_image(good, 2, value=1001)
    elif changed == "label":
        write_label(good, 2, values=(128, 0, 255))
    else:
        (good / "data" / "image3.tif").rename(good / "data" / "image4.tif")
        (good / "labels" / "label3.tif").rename(good / "labels" / "label4.tif")
    assert pack(good / "data", good / "labels", output, command="test").data_sha256 != before


def test_any_whole_numbers_become_classes_in_ascending_order(good, output):
    for number in (1, 2, 3):
        write_label(good, number, values=(700, -5, 3), dtype="int16")
    info = pack(good / "data", good / "labels", output, command="test")
    assert info.class_values == (-5, 3, 700)
    with h5py.File(output) as file:
        assert file["labels"][0, 0, :4].tolist() == [2, 0, 1, 2]
    store.verify(output, lambda *_: None)


def test_a_class_that_only_one_slice_has_is_a_class_of_all(good, output):
    write_label(good, 3, values=(0, 77))
    info = pack(good / "data", good / "labels", output, command="test")
    assert info.class_values == (0, 77, 128, 255)
    assert info.class_counts[:, 1].tolist() == [0, 0, 40 * 48 // 2]


def test_a_class_is_found_in_a_label_that_was_not_looked_at_first(good, output):
    for number in range(4, 81):  # every sixteenth is looked at: 1, 17, 33, ...
        write_image(good, number)
        write_label(good, number)
    write_label(good, 80, values=(0, 77))
    passes = []
    info = pack(
        good / "data", good / "labels", output, command="test", on_slice=lambda done, _: passes.append(done == 1)
    )
    assert info.class_values == (0, 77, 128, 255)
    assert info.class_counts[:, 1].tolist() == [0] * 79 + [40 * 48 // 2]
    assert sum(passes) == 2
    store.verify(output, lambda *_: None)


def test_one_value_in_the_labels_looked_at_first_and_another_later(good, output):
    for number in range(1, 81):
        write_image(good, number)
        write_label(good, number, values=(7,))
    write_label(good, 80, values=(7, 9))
    assert pack(good / "data", good / "labels", output, command="test").class_values == (7, 9)


@pytest.mark.parametrize("shape", [(130, 260), (128, 129), (5, 400), (300, 128)])
def test_slices_that_are_no_whole_number_of_chunks(tmp_path, output, shape):
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 65_535, shape, dtype=np.uint16), rng.integers(0, 4, shape, dtype=np.uint8)
    for name, pixels in (("data", image), ("labels", label)):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "1.tif", pixels)
    pack(tmp_path / "data", tmp_path / "labels", output, command="test")
    with h5py.File(output) as file:
        assert np.array_equal(file["slices"][0], image)
        assert np.array_equal(file["labels"][0], label)
    store.verify(output, lambda *_: None)


@pytest.mark.parametrize(
    ("cores", "slices", "edge", "wanted"),
    [
        (64, 3, 40, 0),  # done before a process has started
        (64, 64, 512, 1),
        (64, 64, 2048, 8),
        (64, 64, 4096, 2),  # of 96 MiB with what they are worked on
        (64, 2, 16384, 0),  # one slice is more than may be in memory beside another
        (2, 64, 2048, 2),
    ],
)
def test_as_many_processes_as_are_worth_their_start_and_have_room(monkeypatch, cores, slices, edge, wanted):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    images, labels = (
        Source(
            path=Path("a.tif"),
            form="stack",
            names=("a.tif#1",) * slices,
            numbers=tuple(range(slices)),
            shapes=((edge, edge),) * slices,
            dtypes=(np.dtype(dtype),) * slices,
            stored_dtype=np.dtype(dtype),
            decode=lambda index: np.zeros(0),
            files=(Path("a.tif"),),
        )
        for dtype in ("u2", "u1")
    )
    assert processes_for(Pairs(images, labels)) == wanted


@pytest.fixture
def several(monkeypatch):
    """Lets pack start two processes for a few small slices."""
    monkeypatch.setattr("hpcseg.data.pack.processes_for", lambda pairs: 2)


def test_several_processes_write_what_one_does(good, tmp_path, several):
    for number in range(4, 12):
        write_image(good, number, shape=(300, 200))
        write_label(good, number, shape=(300, 200))
    for number in (1, 2, 3):
        write_image(good, number, shape=(300, 200))
        write_label(good, number, shape=(300, 200), values=(0, number))
    told = []
    info = pack(
        good / "data",
        good / "labels",
        tmp_path / "several.h5",
        command="test",
        on_slice=lambda done, total: told.append((done, total)),
    )
    store.verify(tmp_path / "several.h5", lambda *_: None)
    assert told[-11:] == [(done, 11) for done in range(1, 12)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hpcseg.data.pack.processes_for", lambda pairs: 1)
        alone = pack(good / "data", good / "labels", tmp_path / "one.h5", command="test")
    assert info.data_sha256 == alone.data_sha256
    again = (good / "data", good / "labels", tmp_path / "one.h5")
    assert pack(*again, command="again", force=False).command == "test"
    write_image(good, 11, shape=(300, 200), value=3)
    with pytest.raises(ConfigError, match="does not hold these slices"):
        pack(*again, command="again", force=False)


def test_a_damaged_slice_is_named_by_whichever_process_meets_it(good, output, several):
    rng = np.random.default_rng(0)
    tifffile.imwrite(good / "data" / "image2.tif", rng.integers(0, 9, (40, 48), dtype=np.uint16), compression="zlib")
    content = bytearray((good / "data" / "image2.tif").read_bytes())
    with tifffile.TiffFile(good / "data" / "image2.tif") as tif:
        first = tif.pages[0].dataoffsets[0]
    content[first : first + 40] = bytes(40)
    (good / "data" / "image2.tif").write_bytes(content)
    with pytest.raises(DatasetError, match=r"good/data: the pixels of image2.tif cannot be decoded"):
        pack(good / "data", good / "labels", output, command="test")
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["with space", "it's", 'say "x"', "new\nline", "back\\slash", "Ü 試料 🧪", "-o", "[red]", "[-red]", "a:b:c"]
)
def test_folder_names_of_any_kind_work(good, tmp_path, name):
    folder = good.rename(tmp_path / name)
    output = folder / f"{name}.h5"
    result = hpcseg("pack", f"--output={output}", "--", folder)
    assert result.exit_code == 0, result.output
    checked = hpcseg("info", "--verify", "--", output)
    assert checked.exit_code == 0, checked.output
    assert store.read_tiles(output, np.array([(1, 0, 0)]), 8)[0][0, 0, 0] == 1000


@pytest.mark.parametrize("name", ["a b.h5", "it's.h5", "[red].h5", "[/red]", "a:b:c.h5"])
def test_the_next_command_names_the_output_as_a_shell_reads_it(good, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"{name}.h5"
    path.parent.mkdir(exist_ok=True)  # "[/red].h5" is a file in a folder "["
    result = hpcseg("pack", good, "-o", path)
    assert result.exit_code == 0, result.output
    *_, command = result.stdout.splitlines()
    # Behind it stands what this machine needs.
    assert shlex.split(command)[:9] == [
        *("Next:", "hpcseg", "grid", "--job", "segment", "--data", str(path)),
        # The slices are of 40 x 48 pixels, which a U-Net that halves four times takes 32 of.
        *("--set", "data.tile_size=32"),
    ]


def test_the_default_output_needs_no_option_in_the_next_command(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        hpcseg("pack", good)
        .stdout.splitlines()[-1]
        .startswith("Next: hpcseg grid --job segment --set data.tile_size=32")
    )
    assert (tmp_path / "dataset.h5").is_file()


@pytest.mark.parametrize("name", ["new\nline", "Ü 試料 🧪", "[red]"])
def test_a_refusal_shows_a_name_of_any_kind_as_it_is(tmp_path, name):
    result = hpcseg("pack", tmp_path / name, "-o", tmp_path / "packed.h5")
    assert result.exit_code == 3
    assert str(tmp_path / name) in result.stderr
