"""Zarr stores whose files are not what their metadata say: cut short, elsewhere, links to nothing, a level up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from slice_folder import hpcseg
from written import read_all

from hpcseg.data.pairs import find_pairs
from hpcseg.errors import ConfigError, DatasetError
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading, VoxelSize

# Noise, which Blosc stores uncompressed, so that it reads on behind the end of a chunk that was cut short.
VOLUME = np.random.default_rng(3).integers(1, 60_000, (6, 64, 48), dtype=np.uint16)


def store(path, **options):
    options = {"chunks": (1, 64, 48), "compressors": None, **options}
    zarr.create_array(path, shape=VOLUME.shape, dtype="u2", fill_value=0, **options)[:] = VOLUME
    return path


BLOSC = {
    "v2": ({"zarr_format": 2, "compressors": numcodecs.Blosc()}, "3.0.0"),
    "v3": ({"compressors": zarr.codecs.BloscCodec()}, "c/3/0/0"),
    "several slices": ({"compressors": zarr.codecs.BloscCodec(), "chunks": (2, 64, 48)}, "c/1/0/0"),
}


@pytest.mark.parametrize(("options", "name"), BLOSC.values(), ids=BLOSC)
@pytest.mark.parametrize("kept", [0, 10, 0.3, 0.99])
def test_a_chunk_that_was_cut_short_is_refused_where_blosc_would_read_on(tmp_path, options, name, kept):
    chunk = store(tmp_path / "a.zarr", **options) / name
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.zarr")), VOLUME)
    whole = chunk.read_bytes()
    length = kept if isinstance(kept, int) else int(kept * len(whole))
    chunk.write_bytes(whole[:length])
    missing = (16 if length < 16 else len(whole)) - length
    with pytest.raises(DatasetError, match=rf"{name} was cut short: {missing} bytes are missing"):
        open_source(tmp_path / "a.zarr")


@pytest.mark.parametrize("cut", [slice(0, 10_000), slice(1000, None)])
def test_a_shard_that_was_cut_short_is_refused(tmp_path, cut):
    options = {"shards": (4, 64, 48), "compressors": zarr.codecs.BloscCodec()}
    shard = store(tmp_path / "a.zarr", **options) / "c/0/0/0"
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "a.zarr")), VOLUME)
    shard.write_bytes(shard.read_bytes()[cut])
    with pytest.raises(DatasetError, match=r"c/0/0/0 .*cut short"):
        open_source(tmp_path / "a.zarr")


def test_a_chunk_that_is_a_link_to_nothing_is_refused(tmp_path):
    """As git-annex and datalad leave what was not fetched."""
    chunk = store(tmp_path / "a.zarr") / "c/3/0/0"
    chunk.unlink()
    chunk.symlink_to("/annex/gone")
    with pytest.raises(DatasetError, match=r"c/3/0/0 is a link to /annex/gone, which is not there"):
        open_source(tmp_path / "a.zarr")


def test_a_chunk_counts_only_where_it_belongs(tmp_path):
    place = store(tmp_path / "a.zarr", zarr_format=2)
    shutil.copy(place / "5.0.0", place / "6.0.0")
    (place / "3.0.0").unlink()
    assert open_source(place).notes == ("1 of 6 chunks are not stored and are read as 0.",)


def test_chunks_that_are_all_elsewhere_are_refused(tmp_path):
    place = store(tmp_path / "a.zarr", zarr_format=2)
    header = json.loads((place / ".zarray").read_text())
    (place / ".zarray").write_text(json.dumps({**header, "dimension_separator": "/"}))
    with pytest.raises(DatasetError, match="none of its 6 chunks where its metadata say"):
        open_source(place)


@pytest.mark.filterwarnings("ignore:Consolidated")
def test_what_was_consolidated_before_an_array_grew_does_not_count(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("data", shape=(4, 64, 48), dtype="u2", chunks=(1, 64, 48))[:] = VOLUME[:4]
    zarr.consolidate_metadata(tmp_path / "a.zarr")
    grown = zarr.open_array(tmp_path / "a.zarr/data")
    grown.resize(VOLUME.shape)
    grown[:] = VOLUME
    source = open_source(tmp_path / "a.zarr")
    np.testing.assert_array_equal(read_all(source), VOLUME)
    assert source.notes == ()


@pytest.mark.filterwarnings("error")
def test_files_that_a_system_leaves_in_a_store_are_passed_over_in_silence(tmp_path):
    place = store(tmp_path / "a.zarr", zarr_format=2)
    for name in (".DS_Store", "Thumbs.db", "._0"):
        (place / name).write_bytes(b"\0")
    group = zarr.create_group(tmp_path / "b.zarr")
    group.create_array("data", data=VOLUME)
    (tmp_path / "b.zarr/.DS_Store").write_bytes(b"\0")
    for opened in (open_source(place), open_source(tmp_path / "b.zarr")):
        np.testing.assert_array_equal(read_all(opened), VOLUME)


def image(group, scale, of_all=None):
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    more = {"coordinateTransformations": [{"type": "scale", "scale": of_all}]} if of_all else {}
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [level], **more}]
    group.create_array("0", data=VOLUME)


def test_the_scale_of_an_image_comes_on_top_of_that_of_its_level(tmp_path):
    image(zarr.create_group(tmp_path / "a.zarr", zarr_format=2), [1, 1, 2], [2, 0.5, 0.25])
    for named in ("a.zarr", "a.zarr::0", "a.zarr/0"):
        assert open_source(tmp_path / named).voxel == VoxelSize(2, 0.5, 0.5, "micrometer")


def test_labels_that_are_translated_otherwise_than_their_images_are_told_of(tmp_path):
    for name, at, of_all in (("a", 0.0, None), ("b", 6.0, [1, 1, 1]), ("c", 0.9, None)):
        image(group := zarr.create_group(tmp_path / f"{name}.zarr", zarr_format=2), [2, 1, 1], of_all)
        (described,) = group.attrs["multiscales"]
        described["datasets"][0]["coordinateTransformations"].append({"type": "translation", "translation": [at, 0, 0]})
        group.attrs["multiscales"] = [described]
    (note,) = find_pairs(tmp_path / "a.zarr", tmp_path / "b.zarr").notes
    assert "labels begin 3.0 x 0.0 x 0.0 voxels (depth, height, width) from the images" in note
    assert not find_pairs(tmp_path / "a.zarr", tmp_path / "c.zarr").notes
    described["datasets"][0]["coordinateTransformations"] = [{"type": "translation", "translation": [9, 0, 0]}]
    group.attrs["multiscales"] = [described]
    assert open_source(tmp_path / "c.zarr").voxel is None, "without a scale"


def test_the_image_of_a_store_is_found_a_group_further_down(tmp_path):
    """As bioformats2raw writes it; a second one is a choice."""
    root = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    image(root.create_group("0"), [3, 2, 1])
    root.create_group("OME")
    for named in ("a.zarr", "a.zarr::0/0", "a.zarr/0", "a.zarr/0/0"):
        source = open_source(tmp_path / named)
        assert source.voxel == VoxelSize(3, 2, 1, "micrometer")
        np.testing.assert_array_equal(read_all(source), VOLUME)
    image(root.create_group("1"), [1, 1, 1])
    with pytest.raises(ConfigError, match=r"has several data sets. It has 0/0 .*, 1/0 "):
        open_source(tmp_path / "a.zarr")
    assert open_source(tmp_path / "a.zarr", Reading(dataset="1/0")).voxel == VoxelSize(1, 1, 1, "micrometer")


def test_labels_in_an_image_are_no_image_beside_it(tmp_path):
    root = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    image(root, [3, 2, 1])
    image(root.create_group("labels").create_group("cells"), [6, 4, 2])
    assert open_source(tmp_path / "a.zarr").voxel == VoxelSize(3, 2, 1, "micrometer")
    source = open_source(Path(f"{tmp_path}/a.zarr::labels/cells/0"))
    assert source.voxel == VoxelSize(6, 4, 2, "micrometer")


def test_what_lies_beside_or_above_an_array_does_not_end_the_work(tmp_path):
    """A page of words in a store of nothing but background, and a folder above that is no sound store."""
    place = tmp_path / "above" / "a.zarr"
    zarr.create_array(place, shape=VOLUME.shape, dtype="u2", chunks=(1, 64, 48), fill_value=0)
    (place / "README.md").write_text("Of the beamline.")
    (tmp_path / "above" / "zarr.json").write_text("{")
    source = open_source(place)
    assert not read_all(source).any() and "6 of 6 chunks are not stored" in source.notes[0]


def test_the_index_of_a_shard_may_be_in_the_other_byte_order(tmp_path):
    index = (zarr.codecs.BytesCodec(endian="big"), zarr.codecs.Crc32cCodec())
    for number, location in enumerate(("start", "end")):
        sharding = zarr.codecs.ShardingCodec(chunk_shape=(1, 64, 48), index_codecs=index, index_location=location)
        options = {"chunks": (4, 64, 48), "serializer": sharding}
        np.testing.assert_array_equal(read_all(open_source(store(tmp_path / f"{number}.zarr", **options))), VOLUME)


def test_a_store_with_an_image_and_another_array_is_a_choice(tmp_path):
    root = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    image(root.create_group("0"), [3, 2, 1])
    image(root["0"].create_group("labels").create_group("cells"), [3, 2, 1])
    assert open_source(tmp_path / "a.zarr").dataset == "0/0"
    root.create_array("other", data=VOLUME)
    with pytest.raises(ConfigError, match="has several data sets"):
        open_source(tmp_path / "a.zarr")


def described(path, data, names, scale, level="0"):
    group = zarr.create_group(path)
    group.create_array("0", data=data)
    kinds = {"c": "channel", "t": "time"}
    axes = [{"name": name, "type": kinds.get(name, "space")} for name in names]
    axes = [{**axis, "unit": "micrometer"} if axis["type"] == "space" else axis for axis in axes]
    levels = [{"path": level, "coordinateTransformations": [{"type": "scale", "scale": scale}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
    return path


def test_channels_of_an_image_are_no_slices(tmp_path):
    path = described(tmp_path / "a.zarr", VOLUME, "cyx", [1, 0.5, 0.25])
    with pytest.raises(
        DatasetError, match=r"a.zarr::0 is \(6, 64, 48\) uint16 of the axes c, y, x, and .* save the one to segment"
    ):
        open_source(path)
    one = described(tmp_path / "one.zarr", VOLUME[:1], "cyx", [1, 0.5, 0.25])
    np.testing.assert_array_equal(read_all(open_source(one)), VOLUME[:1])


@pytest.mark.parametrize(
    ("data", "names", "scale", "depth", "said"),
    [
        (VOLUME, "tyx", [7, 0.5, 0.25], 0.25, False),
        (VOLUME[..., None], "zyxc", [2, 0.5, 0.25, 1], 2, True),
        (VOLUME[None], "czyx", [1, 2, 0.5, 0.25], 2, True),
        (VOLUME[0], "yx", [0.5, 0.25], 0.25, False),
    ],
)
def test_the_axes_of_an_image_say_which_scale_is_whose(tmp_path, data, names, scale, depth, said):
    source = open_source(described(tmp_path / "a.zarr", data, names, scale))
    assert source.voxel == VoxelSize(depth, 0.5, 0.25, "micrometer") and source.voxel.depth_said == said
    assert any("how far slices are apart is not said" in note for note in source.notes) == (
        not said and len(source) > 1
    )


def test_a_level_may_be_called_as_a_folder_is(tmp_path):
    source = open_source(described(tmp_path / "a.zarr", VOLUME, "zyx", [2, 0.5, 0.25], level="0/"))
    np.testing.assert_array_equal(read_all(source), VOLUME)
    assert source.voxel == VoxelSize(2, 0.5, 0.25, "micrometer")


def behind_a_link(folder, elsewhere):
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


@pytest.mark.parametrize("linked", ["c", "data", "data/c", "data/c/3"])
def test_chunks_behind_a_link_to_a_folder_are_looked_at_as_others_are(tmp_path, linked):
    group = zarr.create_group(tmp_path / "a.zarr")
    if linked == "c":
        place = store(tmp_path / "b.zarr", compressors=zarr.codecs.BloscCodec())
    else:
        place = tmp_path / "a.zarr"
        options = {"shape": VOLUME.shape, "dtype": "u2", "chunks": (1, 64, 48), "fill_value": 0}
        group.create_array("data", compressors=zarr.codecs.BloscCodec(), **options)[:] = VOLUME
    behind_a_link(place / linked, tmp_path / "disk")
    (tmp_path / "disk/back").symlink_to(place)  # a link that leads back is followed no further
    source = open_source(place)
    np.testing.assert_array_equal(read_all(source), VOLUME)
    assert source.notes == ()
    before = source.identity()
    chunk = (place if linked == "c" else place / "data") / "c/3/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    assert source.identity() != before
    with pytest.raises(DatasetError, match="c/3/0/0 was cut short: 9 bytes are missing"):
        open_source(place)


def test_chunks_without_a_fill_value_are_read_as_0(tmp_path):
    options = {"chunks": (1, 64, 48), "dtype": "u2", "zarr_format": 2, "fill_value": None}
    zarr.create_array(tmp_path / "a.zarr", shape=VOLUME.shape, **options)[:4] = VOLUME[:4]
    source = open_source(tmp_path / "a.zarr")
    assert not source.read(5).any()
    assert source.notes == ("2 of 6 chunks are not stored and are read as 0.",)


@pytest.mark.parametrize("content", ["{", '{"zarr_format": 3, "node_type": "array"}', ""])
def test_an_array_that_is_named_is_opened_where_another_cannot_be_read(tmp_path, content):
    place = tmp_path / "s.zarr"
    group = zarr.create_group(place).create_group("scan")
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [
            {
                "axes": [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"],
                "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [3.0, 2.0, 2.0]}]}],
            }
        ],
    }
    pixels = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    group.create_array("0", data=pixels)
    zarr.open_group(place, mode="a").create_array("other", data=pixels)
    (place / "other" / "zarr.json").write_text(content)
    source = open_source(f"{place}::scan/0")
    np.testing.assert_array_equal(source.read(1), pixels[1])
    assert source.voxel is not None and (source.voxel.depth, source.voxel.width) == (3.0, 2.0)
    answer = hpcseg("info", f"{place}::scan/0")
    assert answer.exit_code == 0 and "3 of 4 x 5 pixels" in answer.stdout, answer.output


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_places_along_the_axes_of_xarray_say_the_size_of_a_voxel(tmp_path, zarr_format):
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=zarr_format).create_group("scan")
    for name, data, dimensions in (
        ("tomo", VOLUME, "zyx"),
        ("z", np.arange(len(VOLUME)) * 3.0, "z"),
        ("y", 5 + np.arange(64) * 2.0, "y"),
        ("x", np.arange(48) * 0.5, "x"),
    ):
        named = {"dimension_names": list(dimensions)} if zarr_format == 3 else {}
        array = group.create_array(name, data=data, **named)
        array.attrs.update({"_ARRAY_DIMENSIONS": list(dimensions)} if zarr_format == 2 else {})
        array.attrs.update({"units": "um"} if name != "tomo" else {})
    for named in ("a.zarr", "a.zarr::scan/tomo"):
        assert open_source(tmp_path / named).voxel == VoxelSize(3.0, 2.0, 0.5, "um")
    group["z"].attrs["units"] = "deg"
    voxel = open_source(tmp_path / "a.zarr").voxel
    assert voxel == VoxelSize(0.5, 2.0, 0.5, "um") and not voxel.depth_said
    group["x"].attrs["scale_factor"] = 2.0
    assert open_source(tmp_path / "a.zarr").voxel is None


def test_a_store_may_have_two_colons_in_its_path(tmp_path):
    other = zarr.create_group(tmp_path / "scan")
    other.create_array("data", data=VOLUME[:2])
    (tmp_path / "a::b").mkdir()
    for name in ("scan::a.zarr", "a::b/x.zarr"):
        zarr.create_array(zarr.storage.LocalStore(tmp_path / name), data=VOLUME)
        np.testing.assert_array_equal(read_all(open_source(tmp_path / name)), VOLUME)


def test_a_group_of_a_store_is_its_only_array(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr")
    group.create_array("raw/a", data=VOLUME)
    group.create_array("other", data=VOLUME[::-1])
    assert open_source(tmp_path / "a.zarr::raw").dataset == "raw/a"
    group.create_array("raw/b", data=VOLUME)
    with pytest.raises(ConfigError, match="has no data set raw of slices"):
        open_source(tmp_path / "a.zarr::raw")


def test_the_finest_level_is_taken_whatever_order_they_are_listed_in(tmp_path):
    root = zarr.create_group(tmp_path / "a.zarr")
    coarse = VOLUME[:, ::2, ::2]
    labels = root.create_group("labels").create_group("cells")
    for group in (root, labels):
        group.create_array("0", data=coarse)
        group.create_array("1", data=VOLUME)
        levels = [
            {"path": name, "coordinateTransformations": [{"type": "scale", "scale": [1.0, scale, scale]}]}
            for name, scale in (("0", 2.0), ("1", 1.0))
        ]
        axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
        group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
    for named in ("a.zarr", "a.zarr::labels/cells", "a.zarr/labels/cells"):
        source = open_source(tmp_path / named)
        assert source.voxel == VoxelSize(1, 1, 1, "micrometer"), named
        np.testing.assert_array_equal(read_all(source), VOLUME)
