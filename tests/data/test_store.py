"""The packed file gives back what went in, tells when it does not, and is there whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil

import h5py
import numpy as np
import pytest
import tifffile

from hpcseg.data import store
from hpcseg.data.encode import pixels_sha256
from hpcseg.data.pack import pack
from hpcseg.errors import DatasetError
from hpcseg.predict.volume import open_volume


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five uint16 slices of 60 x 70, numbers 3 to 7, with labels 10, 20 and 40."""
    folder = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(5)
    for name in ("data", "labels"):
        (folder / name).mkdir()
    for number in range(3, 8):
        image = rng.integers(0, 65_536, (60, 70), dtype=np.uint16)
        label = np.array([10, 20, 40], dtype=np.uint8)[rng.integers(0, 3, (60, 70))]
        tifffile.imwrite(folder / "data" / f"s{number}.tif", image)
        tifffile.imwrite(folder / "labels" / f"l{number}.tif", label)
    pack(folder / "data", folder / "labels", folder / "packed.h5", command="hpcseg pack store")
    return folder


@pytest.fixture
def packed(folder, tmp_path):
    """A copy that a test may damage."""
    return shutil.copy(folder / "packed.h5", tmp_path / "packed.h5")


@pytest.fixture(scope="module")
def images(folder):
    return np.stack([tifffile.imread(folder / "data" / f"s{number}.tif") for number in range(3, 8)])


@pytest.fixture(scope="module")
def labels(folder):
    return np.stack([tifffile.imread(folder / "labels" / f"l{number}.tif") for number in range(3, 8)])


def sha256(pixels):
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def test_info_holds_the_table_of_the_slices(packed, images, labels):
    info = store.read_info(packed)

    assert info.shape == (5, 60, 70)
    assert (info.dtype, info.label_dtype) == ("uint16", "uint8")
    assert info.class_values == (10, 20, 40)
    assert info.full_scale == 65_535
    assert info.numbers.tolist() == [3, 4, 5, 6, 7]
    assert info.image_names == ("s3.tif", "s4.tif", "s5.tif", "s6.tif", "s7.tif")
    assert info.label_names == ("l3.tif", "l4.tif", "l5.tif", "l6.tif", "l7.tif")
    assert info.image_sha256 == tuple(sha256(image) for image in images)
    assert info.label_sha256 == tuple(sha256(label) for label in labels)
    assert info.class_counts.tolist() == [[(label == value).sum() for value in (10, 20, 40)] for label in labels]
    assert info.grey_min.tolist() == images.min((1, 2)).tolist()
    assert info.grey_max.tolist() == images.max((1, 2)).tolist()
    assert info.command == "hpcseg pack store"


def test_that_no_depth_of_a_voxel_is_said_is_kept_and_changes_no_hash(folder, tmp_path):
    shutil.copytree(folder / "data", tmp_path / "data")
    for file in (tmp_path / "data").iterdir():
        tifffile.imwrite(file, tifffile.imread(file), resolution=(20_000, 20_000), resolutionunit=3, metadata=None)
    info = pack(tmp_path / "data", folder / "labels", tmp_path / "packed.h5", command="test")
    assert info.voxel is not None and info.voxel.width == pytest.approx(5e-5)
    said = []
    for source in (info, store.read_info(tmp_path / "packed.h5"), open_volume(tmp_path / "packed.h5")):
        said.append(source.voxel.depth_said)
    assert said == [False] * 3
    without = store.read_info(folder / "packed.h5")
    assert without.voxel is None
    assert (info.data_sha256, without.data_sha256) == (store.identity_sha256(info),) * 2

    with h5py.File(tmp_path / "packed.h5", "a") as file:  # as before there was this
        assert file.attrs["schema_version"] == 3
        del file.attrs["voxel_depth_said"]
    before = store.read_info(tmp_path / "packed.h5")
    assert before.voxel == info.voxel and before.voxel.depth_said


def test_the_summary_is_json_and_its_shares_are_those_of_all_pixels(packed, images, labels):
    summary = json.loads(json.dumps(store.info_as_json(store.read_info(packed))))
    # Rounded to six places.
    assert summary["class_shares"] == pytest.approx([(labels == value).mean() for value in (10, 20, 40)], abs=5e-7)
    assert (summary["grey_min"], summary["grey_max"]) == (images.min(), images.max())
    assert summary["file"] == "packed.h5"


def test_slices_are_stored_as_they_were_and_labels_as_class_indices(packed, images, labels):
    with h5py.File(packed) as file:
        np.testing.assert_array_equal(file["slices"][:], images)
        np.testing.assert_array_equal(np.array([10, 20, 40])[file["labels"][:]], labels)
        assert file["slices"].dtype == np.dtype("<u2")
        assert file["slices"].compression is None


def test_tiles_are_those_of_numpy_slicing_in_the_order_that_was_asked_for(packed, images, labels):
    rng = np.random.default_rng(0)
    size = 24
    places = np.column_stack([rng.integers(0, 5, 80), rng.integers(0, 60 - size, 80), rng.integers(0, 70 - size, 80)])
    places[7] = places[3]  # a tile may be asked for twice
    places[8] = (4, 60 - size, 70 - size)

    tiles, classes = store.read_tiles(packed, places, size)

    class_of = {10: 0, 20: 1, 40: 2}
    for (index, y, x), tile, class_tile in zip(places, tiles, classes, strict=True):
        window = (index, slice(y, y + size), slice(x, x + size))
        np.testing.assert_array_equal(tile, images[window])
        np.testing.assert_array_equal(class_tile, np.vectorize(class_of.get)(labels[window]))
    assert (tiles.dtype, classes.dtype) == (np.uint16, np.uint8)


def test_no_tiles_are_none(packed):
    tiles, classes = store.read_tiles(packed, np.empty((0, 3), dtype=np.int64), 16)
    assert tiles.shape == classes.shape == (0, 16, 16)


def test_each_slice_is_read_once_however_the_table_is_shuffled(packed, monkeypatch):
    seen = []
    read = h5py.Dataset.__getitem__

    def counted(self, window, *rest, **options):
        seen.append((self.name, int(window[0])))
        return read(self, window, *rest, **options)

    places = np.array([(index, y, 0) for y in (0, 10, 20) for index in (4, 0, 2)])
    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    store.read_tiles(packed, places, 16)
    assert [index for name, index in seen if name == "/slices"] == [0, 2, 4]
    assert [index for name, index in seen if name == "/labels"] == [0, 2, 4]


def test_verify_passes_a_whole_file_and_tells_its_progress(packed):
    told = []
    store.verify(packed, lambda done, total: told.append((done, total)))
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize(("dataset", "name"), [("slices", "s6.tif"), ("labels", "l6.tif")])
def test_verify_finds_one_changed_pixel_and_names_the_file_it_came_from(packed, dataset, name):
    with h5py.File(packed, "r+") as file:
        file[dataset][3, 41, 17] = (file[dataset][3, 41, 17] + 1) % 3
    with pytest.raises(DatasetError, match=name):
        store.verify(packed, lambda *_: None)


def test_verify_finds_a_label_that_is_no_class(packed):
    with h5py.File(packed, "r+") as file:
        file["labels"][0, 0, 0] = 200
    with pytest.raises(DatasetError, match=r"l3\.tif"):
        store.verify(packed, lambda *_: None)


@pytest.mark.parametrize("part", ["full_scale", "table/numbers", "data_sha256"])
def test_verify_finds_a_change_beside_the_pixels(packed, part):
    with h5py.File(packed, "r+") as file:
        if part == "full_scale":
            file.attrs[part] = 255.0
        elif part == "data_sha256":
            file.attrs[part] = 64 * "0"
        else:
            file[part][0] = 99
    with pytest.raises(DatasetError, match="its class values, grey range or slice numbers are not those"):
        store.verify(packed, lambda *_: None)


def test_verify_finds_pixels_that_were_changed_together_with_their_hash(packed):
    with h5py.File(packed, "r+") as file:
        file["slices"][3, 41, 17] += 1
        file["table/image_sha256"][3] = sha256(file["slices"][3])
    with pytest.raises(DatasetError, match=r"packed.h5 is damaged"):
        store.verify(packed, lambda *_: None)


def test_labels_that_cannot_be_decompressed_are_an_error_that_says_so(packed):
    with h5py.File(packed) as file:
        chunk = file["labels"].id.get_chunk_info(2)
    with packed.open("rb+") as damaged:
        damaged.seek(chunk.byte_offset + 20)
        damaged.write(bytes(100))
    for read in (
        lambda: store.verify(packed, lambda *_: None),
        lambda: store.read_tiles(packed, np.array([(2, 0, 0)]), 60),
    ):
        with pytest.raises(DatasetError, match=r"packed.h5 is damaged: it cannot be read"):
            read()


def test_a_file_that_may_not_be_read_is_not_called_damaged(packed, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")  # tests may run as root, whom no file mode stops

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(DatasetError, match=r"packed.h5 may not be read by you"):
        store.read_info(packed)


def test_an_hdf5_file_of_another_program_is_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["slices"] = np.zeros((2, 8, 8))
    with pytest.raises(DatasetError, match=r"other.h5 was not written by hpcseg"):
        store.read_info(tmp_path / "other.h5")


def test_a_file_is_read_whatever_locks_are_held_on_it(packed):
    # As where a file system has no locks: HDF5 would fail to get its own, if store did not tell it to do without.
    with packed.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert store.read_info(packed).shape == (5, 60, 70)


def test_the_hash_of_pixels_does_not_depend_on_byte_order_or_memory_layout():
    pixels = np.arange(12, dtype="<u2").reshape(3, 4)
    expected = hashlib.sha256(bytes(byte for value in range(12) for byte in (value, 0))).hexdigest()
    assert pixels_sha256(pixels) == expected
    assert pixels_sha256(pixels.astype(">u2")) == expected
    assert pixels_sha256(np.asfortranarray(pixels)) == expected
