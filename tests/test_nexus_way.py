"""The guide's way from a NeXus scan with ten labelled slices to an OME-Zarr, typed as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
import tifffile
import zarr
from terminal import hpcseg_in_terminal

from hpcseg.data.sample import write_sample

SLICES, SIZE, LABELLED = 40, 64, range(2, 40, 4)
# Seconds instead of an hour: the same commands for smaller slices.
SMALL = ["--set", "train.width=2", "--set", "train.depth=2", "--set", "train.epochs=1", "--set", "data.tile_size=64"]


def commands() -> list[list[str]]:
    """The commands under the guide's heading on NeXus, as arguments of hpcseg."""
    section = (Path(__file__).parents[1] / "hpcseg/GUIDE.md").read_text().partition("## From a NeXus scan")[2]
    lines = re.findall(r"^    (hpcseg .+)$", section.partition("\n## ")[0], re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


def write_scan(folder: Path) -> np.ndarray:
    """As a beamline does: a master file whose data are a link into the detector's file, which is compressed.

    Returns the grey values, (40, 64, 64) uint16.
    """
    write_sample(folder / "made", slices=SLICES, size=SIZE, seed=3)
    volume = np.stack([tifffile.imread(file) for file in sorted((folder / "made" / "data").iterdir())])
    with h5py.File(folder / "detector_0001.h5", "w") as file:
        data = file.create_dataset(
            "entry/data", data=volume, chunks=(4, SIZE, SIZE), **hdf5plugin.Bitshuffle(cname="lz4")
        )
        data.attrs["element_size_um"] = [0.65, 0.65, 0.65]
    with h5py.File(folder / "scan.nxs", "w") as file:
        file.attrs["default"] = "entry"
        entry = file.create_group("entry")
        entry.attrs.update({"NX_class": "NXentry", "default": "data"})
        entry["title"] = "SOC, 0.65 um"
        group = entry.create_group("data")
        group.attrs.update({"NX_class": "NXdata", "signal": "data"})
        group["data"] = h5py.ExternalLink("detector_0001.h5", "entry/data")
        group["angle"] = np.linspace(0, 180, SLICES)
    (folder / "LABELS").mkdir()
    for number in LABELLED:
        label = tifffile.imread(folder / "made" / "labels" / f"sample{number:04d}.tif")
        label = (label > 0).astype(np.uint8)
        label[:, :9] = 255
        tifffile.imwrite(folder / "LABELS" / f"{number:04d}.tif", label)
    return volume


@pytest.fixture(scope="module")
def way(tmp_path_factory):
    """The folder, the grey values, and the screen of each command by its verb; info's is that of the labels."""
    folder = tmp_path_factory.mktemp("nexus")
    volume = write_scan(folder)
    (folder / "no-slurm.conf").touch()
    screens = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "no-slurm.conf"))
        for command in commands():
            session = hpcseg_in_terminal(*command, *(SMALL if command[0] == "grid" else ()), cwd=folder)
            assert session.code == 0, f"{command}: {session.last}"
            screens.append((command[0], " ".join(session.last.split())))
    return folder, volume, screens


def test_these_are_the_commands(way):
    assert [verb for verb, _ in way[2]] == ["info", "pack", "grid", "report", "predict", "info"]


def test_info_names_the_data_set_and_its_voxels_before_anything_is_packed(way):
    told = way[2][0][1]
    assert "scan.nxs::entry/data/data 40 x 64 x 64 uint16 (these slices)" in told
    assert "0.65 x 0.65 x 0.65 micrometer" in told


def test_packing_takes_the_ten_labelled_slices(way):
    told = way[2][1][1]
    assert "10 of 64 x 64 pixels, uint16, numbers 2 to 38" in told
    assert "30 of 40 slices have no label and are left out" in told
    assert "pore (0):" in told and "grain (1):" in told
    with h5py.File(way[0] / "ten.h5") as packed:
        np.testing.assert_array_equal(packed["slices"][0], way[1][1])
        assert (packed["labels"][:, :, :9] == 255).all() and (packed["labels"][:, :, 9:] < 2).all()


def test_the_labels_of_all_slices_are_an_ome_zarr_with_the_voxels_of_the_scan(way):
    group = zarr.open_group(way[0] / "OUT" / "labels.zarr", mode="r")
    (level,) = group.attrs["ome"]["multiscales"][0]["datasets"]
    assert level["coordinateTransformations"] == [{"type": "scale", "scale": [0.65, 0.65, 0.65]}]
    assert [axis["unit"] for axis in group.attrs["ome"]["multiscales"][0]["axes"]] == ["micrometer"] * 3
    labels = group[level["path"]][:]
    assert labels.shape == (SLICES, SIZE, SIZE) and set(np.unique(labels)) <= {0, 1}
    assert "40 of 64 x 64 pixels, uint8" in way[2][-1][1] and "0.65 x 0.65 x 0.65 micrometer" in way[2][-1][1]
