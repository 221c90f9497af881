"""What the field's libraries write in any format comes back bit for bit, with the size of a voxel."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import h5py
import hdf5plugin
import mrcfile
import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from written import read_all

from hpcseg.data.pack import pack
from hpcseg.data.processes import in_processes
from hpcseg.errors import ConfigError, DatasetError
from hpcseg.slices.opening import open_source
from hpcseg.slices.source import Reading, VoxelSize, choose_slices

SLICES, HEIGHT, WIDTH = 5, 24, 31
VOLUME = np.random.default_rng(1).integers(0, 65536, (SLICES, HEIGHT, WIDTH), dtype=np.uint16)
# Depth, height and width of a voxel; in TIFFs as pixels per unit.
SIZE, RESOLUTION = (2.0, 0.5, 0.25), (4, 2)
IMAGEJ = {"imagej": True, "resolution": RESOLUTION}
OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def tiff_folder(path):
    path.mkdir()
    for number, pixels in enumerate(VOLUME, start=1):
        tifffile.imwrite(path / f"s{number}.tif", pixels, metadata={"unit": "um", "spacing": 2.0}, **IMAGEJ)
    return path, "um"


def stack(path):
    tifffile.imwrite(path, VOLUME, metadata={"axes": "ZYX", "unit": "\\u00B5m", "spacing": 2.0}, **IMAGEJ)
    return path, "µm"


def one_header(path):
    metadata = {"axes": "ZYX", "unit": "nm", "spacing": 2.0}
    tifffile.imwrite(path, VOLUME, metadata=metadata, truncate=True, **IMAGEJ)
    return path, "nm"


def bigtiff(path):
    # A plain TIFF says nothing of the third axis.
    options = {"resolution": (4, 4), "resolutionunit": 3, "bigtiff": True, "byteorder": ">", "compression": "lzw"}
    tifffile.imwrite(path, VOLUME, photometric="minisblack", metadata=None, **options)
    return path, VoxelSize(0.25, 0.25, 0.25, "cm")


def ome_xml(planes, slices=SLICES, images=1):
    pixels = (
        f'<Pixels DimensionOrder="XYZCT" Type="uint16" SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeZ="{slices}" SizeC="1" '
        'SizeT="1" PhysicalSizeZ="2.0" PhysicalSizeY="0.5" PhysicalSizeX="0.25" '
        'PhysicalSizeZUnit="nm" PhysicalSizeYUnit="nm" PhysicalSizeXUnit="nm" ID="Pixels:0">'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{planes}</Pixels>'
    )
    return f'<?xml version="1.0"?><OME xmlns="{OME}"><Image ID="Image:0">{pixels}</Image></OME>'.encode()


def ome(path):
    """Its pages are in another order than its slices."""
    order = [3, 0, 4, 1, 2]
    planes = "".join(f'<TiffData IFD="{page}" FirstZ="{z}" PlaneCount="1"/>' for page, z in enumerate(order))
    with tifffile.TiffWriter(path) as tif:
        for page, z in enumerate(order):
            text = ome_xml(planes) if page == 0 else None
            tif.write(VOLUME[z], description=text, metadata=None, contiguous=False)
    return path, "nm"


def stk(path):
    """One page header, and a tag that counts the planes behind it; tifffile writes no others of MetaMorph's."""
    count = [(33628, 4, 2, (0, 1)), (33629, 5, SLICES, (1,) * 2 * SLICES), (65000, 4, 4 * SLICES, (1,) * 4 * SLICES)]
    tifffile.imwrite(path, VOLUME, photometric="minisblack", metadata=None, truncate=True, extratags=count)
    return path, None


def hdf5(path, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/data/data", data=VOLUME, **options)
        file["entry/data/data"].attrs["element_size_um"] = SIZE
        file["entry/data/places"] = VOLUME[0, :, :3]
    return path, "micrometer"


def hdf5_chunks(path):
    return hdf5(path, chunks=(2, 16, 31), compression="gzip")


def hdf5_blosc(path):
    return hdf5(path, chunks=(1, HEIGHT, WIDTH), **hdf5plugin.Blosc())


def hdf5_bitshuffle(path):
    return hdf5(path, chunks=(SLICES, HEIGHT, WIDTH), **hdf5plugin.Bitshuffle())


def hdf5_one_time(path):
    """Axes of one before the slices, as of the channel and the time of a detector's frames."""
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=VOLUME[None, None], chunks=(1, 1, 2, 16, 31), compression="gzip")
    return path, None


def hdf5_links(path):
    """To one data set several links lead, over a file beside it and a group."""
    hdf5(path.with_name("raw.h5"))
    with h5py.File(path, "w") as file:
        file["entry/detector"] = h5py.ExternalLink("raw.h5", "/entry/data")
        file["entry/data"] = h5py.SoftLink("/entry/detector/data")
        file["again"] = h5py.SoftLink("/entry/detector")
    return path, "micrometer"


def hdf5_virtual(path):
    layout = h5py.VirtualLayout(VOLUME.shape, "u2")
    for part, chosen in enumerate((slice(0, 3), slice(3, 5))):
        with h5py.File(path.with_name(f"part{part}.h5"), "w") as file:
            file["frames"] = VOLUME[chosen]
        layout[chosen] = h5py.VirtualSource(f"part{part}.h5", "frames", VOLUME[chosen].shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)
    return path, None


def hdf5_external(path):
    path.with_name("pixels.raw").write_bytes(bytes(10) + VOLUME.astype("<u2").tobytes())
    with h5py.File(path, "w") as file:
        file.create_dataset("data", VOLUME.shape, "<u2", external=[("pixels.raw", 10, VOLUME.nbytes)])
    return path, None


def nexus(path):
    """Its attributes say which of two data sets is meant."""
    hdf5(path)
    with h5py.File(path, "a") as file:
        file["entry/data/flat"] = VOLUME[::-1]
        file.attrs["default"], file["entry"].attrs["default"], file["entry/data"].attrs["signal"] = (
            "entry",
            "data",
            "data",
        )
    return path, "micrometer"


def zarr_array(path, **options):
    array = zarr.create_array(path, shape=VOLUME.shape, dtype="u2", **options)
    array[:] = VOLUME
    return path, None


def zarr_v2(path):
    return zarr_array(path, chunks=(2, 16, 16), zarr_format=2)


def zarr_v3(path):
    return zarr_array(path, chunks=(1, 24, 31), shards=(5, 24, 31))


def ome_zarr(path, zarr_format=2):
    """Time and channel of one before the slices, and a second level of half the size."""
    group = zarr.create_group(path, zarr_format=zarr_format)
    for name, pixels in (("full", VOLUME), ("half", VOLUME[:, ::2, ::2])):
        array = group.create_array(name, shape=(1, 1, *pixels.shape), chunks=(1, 1, 2, 16, 16), dtype="u2")
        array[0, 0] = pixels
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    scales = {"full": SIZE, "half": (SIZE[0], 2 * SIZE[1], 2 * SIZE[2])}
    levels = [
        {"path": name, "coordinateTransformations": [{"type": "scale", "scale": [1, 1, *scale]}]}
        for name, scale in scales.items()
    ]
    multiscales = [{"axes": axes, "datasets": levels}]
    group.attrs.update({"multiscales": multiscales} if zarr_format == 2 else {"ome": {"multiscales": multiscales}})
    return path, "nanometer"


def ome_zarr_v3(path):
    return ome_zarr(path, zarr_format=3)


def mrc(path):
    with mrcfile.new(path) as file:
        file.set_data(VOLUME)
        file.set_volume()
        file.voxel_size = SIZE[::-1]
    return path, "angstrom"


def mrc_of_before(path):
    """As old programs write it: without the mark of an MRC file, or the stamp of its byte order."""
    voxel = mrc(path)[1]
    content = path.read_bytes()
    path.write_bytes(content[:208] + bytes(8) + content[216:])
    return path, voxel


def mrc_with_more_behind(path):
    voxel = mrc(path)[1]
    path.write_bytes(path.read_bytes() + bytes(512))
    return path, voxel


def mrc_one_volume(path):
    with mrcfile.new(path) as file:
        file.set_data(VOLUME[None])
        file.voxel_size = SIZE[::-1]
    return path, "angstrom"


def nifti(path):
    image = nibabel.Nifti1Image(VOLUME.transpose(2, 1, 0), np.diag([*SIZE[::-1], 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, path)
    return path, "micrometer"


def nifti_of_two_files(path):
    image = nibabel.Nifti1Pair(VOLUME.transpose(2, 1, 0), np.diag([*SIZE[::-1], 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, path)
    return path, "micrometer"


def nifti_2_of_two_files(path):
    image = nibabel.Nifti2Pair(VOLUME.transpose(2, 1, 0), np.diag([*SIZE[::-1], 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, path)
    return path, "micrometer"


def npy(path):
    np.save(path, VOLUME)
    return path, None


def raw(path):
    path.write_bytes(bytes(64) + VOLUME.astype(">u2").tobytes())
    return path, None


RAW = Reading(shape=VOLUME.shape, dtype="uint16", byteorder="big", header=64)
FORMATS = {
    "slices": (tiff_folder, "folder"),
    "a.tif": (stack, "stack"),
    "large.tif": (one_header, "stack"),
    "a.btf": (bigtiff, "stack"),
    "a.ome.tif": (ome, "stack"),
    "a.stk": (stk, "stack"),
    "a.h5": (hdf5, "hdf5"),
    "chunks.h5": (hdf5_chunks, "hdf5"),
    "blosc.h5": (hdf5_blosc, "hdf5"),
    "bitshuffle.h5": (hdf5_bitshuffle, "hdf5"),
    "one-time.h5": (hdf5_one_time, "hdf5"),
    "links.h5": (hdf5_links, "hdf5"),
    "virtual.h5": (hdf5_virtual, "hdf5"),
    "external.h5": (hdf5_external, "hdf5"),
    "a.nxs": (nexus, "hdf5"),
    "v2.zarr": (zarr_v2, "zarr"),
    "v3.zarr": (zarr_v3, "zarr"),
    "ome.zarr": (ome_zarr, "zarr"),
    "ome3.zarr": (ome_zarr_v3, "zarr"),
    "a.mrc": (mrc, "mrc"),
    "before.mrc": (mrc_of_before, "mrc"),
    "more.mrc": (mrc_with_more_behind, "mrc"),
    "one-volume.mrc": (mrc_one_volume, "mrc"),
    "a.nii.gz": (nifti, "nifti"),
    "a.hdr": (nifti_of_two_files, "nifti"),
    "a.img": (nifti_of_two_files, "nifti"),
    "two.img": (nifti_2_of_two_files, "nifti"),
    "a.npy": (npy, "npy"),
    "a.raw": (raw, "raw"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_volume_of_any_format_reads_back_with_its_voxels(tmp_path, name):
    write, form = FORMATS[name]
    path, voxel = write(tmp_path / name)
    opened = open_source(path, RAW if form == "raw" else Reading())
    source = pickle.loads(pickle.dumps(opened))  # as another process gets it
    assert (source.form, source.numbers, set(source.shapes)) == (form, (1, 2, 3, 4, 5), {(HEIGHT, WIDTH)})
    read = read_all(source)
    np.testing.assert_array_equal(read, VOLUME)
    assert read.dtype == source.dtype == np.uint16 and read.dtype.isnative
    assert source.voxel == (VoxelSize(*SIZE, voxel) if isinstance(voxel, str) else voxel)
    np.testing.assert_array_equal(read_all(choose_slices(source, every=2, slices=(2, 5))), VOLUME[[1, 3]])


@pytest.mark.parametrize("name", FORMATS)
def test_a_volume_of_any_format_is_packed_to_the_same_hashes(tmp_path, name):
    write, form = FORMATS[name]
    path, _ = write(tmp_path / name)
    (tmp_path / "labels").mkdir()
    for number, pixels in enumerate(VOLUME, start=1):
        tifffile.imwrite(tmp_path / "labels" / f"l{number}.tif", (pixels > 30_000).astype("u1"), metadata=None)
    how = RAW if form == "raw" else Reading()
    info = pack(path, tmp_path / "labels", tmp_path / "packed" / "a.h5", command="test", how=how)
    assert list(info.image_sha256) == [hashlib.sha256(pixels.astype("<u2").tobytes()).hexdigest() for pixels in VOLUME]


def test_a_filter_of_a_plug_in_is_loaded_by_every_process_that_reads(tmp_path):
    path, _ = hdf5_blosc(tmp_path / "a.h5")
    source = open_source(path)
    read = list(in_processes(source.read, range(SLICES), processes=2))
    np.testing.assert_array_equal(read, VOLUME)


def test_the_level_of_an_ome_zarr_is_a_choice_and_keeps_its_scale(tmp_path):
    path, _ = ome_zarr(tmp_path / "a.zarr")
    for source in (open_source(path, Reading(dataset="half")), open_source(Path(f"{path}::half"))):
        np.testing.assert_array_equal(read_all(source), VOLUME[:, ::2, ::2])
        assert source.voxel == VoxelSize(2.0, 1.0, 0.5, "nanometer")


@pytest.mark.parametrize(("order", "letters"), [("LOWBYTEFIRST", "<"), ("HIGHBYTEFIRST", ">")])
def test_a_vol_is_read_as_its_info_says(tmp_path, order, letters):
    values = VOLUME.astype(np.float32) / 7
    (tmp_path / "a.vol").write_bytes(values.astype(f"{letters}f4").tobytes())
    (tmp_path / "a.vol.info").write_text(
        f"! PyHST_SLAVE VOLUME INFO FILE\nNUM_X =  {WIDTH}\nNUM_Y =  {HEIGHT}\nNUM_Z =  {SLICES}\n"
        f"voxelSize =  0.65\nBYTEORDER = {order}\nValMin = -1.0\n"
    )
    source = open_source(tmp_path / "a.vol")
    np.testing.assert_array_equal(read_all(source), values)
    assert source.voxel == VoxelSize(0.65, 0.65, 0.65, "micrometer")


@pytest.mark.parametrize("each", [1, 2])
def test_the_files_of_an_ome_tiff_are_found_from_any_of_them(tmp_path, each):
    planes = "".join(
        f'<TiffData IFD="{z % each}" FirstZ="{z}" PlaneCount="1"><UUID FileName="from{z - z % each}.ome.tif">'
        f"urn:uuid:{z // each}</UUID></TiffData>"
        for z in range(SLICES)
    )
    for first in range(0, SLICES, each):
        with tifffile.TiffWriter(tmp_path / f"from{first}.ome.tif") as tif:
            for index, pixels in enumerate(VOLUME[first : first + each]):
                tif.write(pixels, description=None if index else ome_xml(planes), metadata=None, contiguous=False)
    for first in (0, 4):
        np.testing.assert_array_equal(read_all(open_source(tmp_path / f"from{first}.ome.tif")), VOLUME)


def test_a_file_of_an_ome_tiff_that_says_that_it_is_another_is_refused(tmp_path):
    """As where the metadata of the first were copied into all: its plane would be taken for that of the first."""
    planes = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="plane{z}.ome.tif">urn:uuid:{z}</UUID>'
        "</TiffData>"
        for z in range(SLICES)
    )
    text = ome_xml(planes).replace(b"<OME ", b'<OME UUID="urn:uuid:0" ')
    for z, pixels in enumerate(VOLUME):
        tifffile.imwrite(tmp_path / f"plane{z}.ome.tif", pixels, description=text, metadata=None)
    np.testing.assert_array_equal(read_all(open_source(tmp_path / "plane0.ome.tif")), VOLUME)
    with pytest.raises(DatasetError, match=r"plane3.ome.tif .*its OME metadata take 1 of its pages for two slices"):
        open_source(tmp_path / "plane3.ome.tif")


def test_a_slice_alone_is_one_in_every_format(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = VOLUME[0]
    zarr.save_array(tmp_path / "a.zarr", VOLUME[0])
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(VOLUME[0])
    nibabel.save(nibabel.Nifti1Image(VOLUME[0].T, np.eye(4)), tmp_path / "a.nii")
    tifffile.imwrite(tmp_path / "a.tif", VOLUME[0], imagej=True)
    for name in ("a.h5", "a.zarr", "a.mrc", "a.nii", "a.tif"):
        np.testing.assert_array_equal(read_all(open_source(tmp_path / name)), VOLUME[:1])


def test_slices_are_counted_from_the_end_as_well(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", data=VOLUME, chunks=(2, HEIGHT, WIDTH))
    source = open_source(tmp_path / "a.h5")
    for index in range(-SLICES, SLICES):
        np.testing.assert_array_equal(source.read(index), VOLUME[index])
    with pytest.raises(IndexError):
        source.read(-SLICES - 1)


@pytest.mark.parametrize("name", ["a.h5", "a.zarr"])
def test_what_changed_in_a_file_is_read_by_whoever_opens_it_again(tmp_path, name):
    for pixels in (VOLUME, VOLUME[::-1]):
        if name == "a.h5":
            with h5py.File(tmp_path / name, "w") as file:
                file.create_dataset("volume", data=pixels, chunks=VOLUME.shape)
        else:
            zarr.create_array(tmp_path / name, data=pixels, chunks=(SLICES, HEIGHT, WIDTH), overwrite=True)
        np.testing.assert_array_equal(read_all(open_source(tmp_path / name)), pixels)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"CDF\x02", "nccopy"),
        (b"SIMPLE  =                    T", "FITS file"),
        (b"{\nHeaderID = EH:000001:000000:000000 ;\n", "silx convert"),
        (bytes(128) + b"DICM", "dcm2niix"),
        (b"ObjectType = Image\nNDims = 3\nElementDataFile = a.raw\n", "raw file beside it, with --shape and --dtype"),
        (b"NDims = 3\nElementDataFile = a.raw", "raw file beside it"),
        (b"NDims = 3\nBinaryDataByteOrderMSB = True\nElementDataFile = LOCAL\n", "--byteorder big, --header 64"),
        (b"NDims = 3\nCompressedData = True\nElementDataFile = LOCAL\n", "compressed; save it as TIFF"),
    ],
)
def test_a_volume_of_a_kind_that_is_known_and_not_read_is_called_so_with_what_to_do(tmp_path, start, said):
    (tmp_path / "a.nc").write_bytes(start + bytes(400))
    with pytest.raises(DatasetError, match=f"a.nc is not .*{said}"):
        open_source(tmp_path / "a.nc")
    with pytest.raises(DatasetError, match=rf"holds no \.tif, \.tiff or \.png files\. a\.nc is a .*{said}"):
        open_source(tmp_path)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<u2", ">u2", "<f4", "u1"])
def test_a_volume_of_numpy_is_read_as_its_header_says(tmp_path, order, kind):
    volume = (VOLUME % 200).astype(kind, order=order)
    np.save(tmp_path / "a.npy", volume)
    source = pickle.loads(pickle.dumps(open_source(tmp_path / "a.npy")))
    np.testing.assert_array_equal(read_all(source), volume)
    assert source.dtype == np.dtype(kind).newbyteorder("=")
    np.save(tmp_path / "one.npy", volume[0])
    np.testing.assert_array_equal(open_source(tmp_path / "one.npy").read(0), volume[0])


def test_a_numpy_file_is_not_described_cut_short_or_of_objects(tmp_path):
    np.save(tmp_path / "a.npy", VOLUME)
    for more in ({"dtype": "uint16", "shape": VOLUME.shape}, {"header": 128}, {"byteorder": "big"}):
        with pytest.raises(ConfigError, match=r"a\.npy is a NumPy file, and says its shape and type itself"):
            open_source(tmp_path / "a.npy", Reading(**more))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-3])
    np.save(tmp_path / "objects.npy", np.array([[None, 2], [3, 4]]), allow_pickle=True)
    np.save(tmp_path / "text.npy", np.array([["a", "b"]]))
    for name in ("cut", "objects", "text"):
        with pytest.raises(DatasetError, match=rf"{name}\.npy"):
            open_source(tmp_path / f"{name}.npy")
