"""A file in, what it is and what to do with it out: of those kinds that people have and that are not read here."""

from __future__ import annotations

import re
from pathlib import Path

_TO_TIFF = "save it as TIFF"
# A header of EDF: lines of NAME = VALUE ; in braces, where JSON has colons and commas.
_EDF, _LONGEST_HEADER = re.compile(rb"\{\s+[\w ]+=[^;{]*;"), 4096
# One of MetaImage ends with the file that has the pixels.
_META_IMAGE = re.compile(
    rb"(?:ObjectType|NDims) *=.*?^ElementDataFile *= *(\S+)[^\n]*(?:\n|\Z)", re.DOTALL | re.MULTILINE
)
# Where a file has these bytes, it is that.
_KINDS = (
    (0, b"\x1f\x8b", "gzip file; unpack it"),
    (0, b"PK\x03\x04", "zip file; unpack it"),
    (0, b"BZh", "bzip2 file; unpack it"),
    (0, b"\xfd7zXZ", "xz file; unpack it"),
    (0, b"7z\xbc\xaf", "7z file; unpack it"),
    (257, b"ustar", "tar file; unpack it"),
    (0, b"\x89PNG", f"PNG; {_TO_TIFF}"),
    (0, b"\xff\xd8\xff", f"JPEG; {_TO_TIFF}"),
    (4, b"jP  \r\n\x87\n", f"JPEG 2000; {_TO_TIFF}"),
    (0, b"BM", f"BMP; {_TO_TIFF}"),
    (0, b"GIF8", f"GIF; {_TO_TIFF}"),
    (0, b"SIMPLE  =", f"FITS file; {_TO_TIFF} or HDF5"),
    (0, b"CDF", "netCDF file of the classic kind; `nccopy -k netCDF-4` makes an HDF5 file of it"),
    (0, b"\x0e\x03\x13\x01", "HDF4 file; `h4toh5` makes an HDF5 file of it"),
    (0, b"MATLAB 5.0 MAT-file", "MAT-file of before version 7.3; `save(NAME, '-v7.3')` makes an HDF5 file of it"),
    (128, b"DICM", "DICOM file; `dcm2niix` makes a NIfTI file of a series"),
    (0, b"\xd0\xcf\x11\xe0", f"file as TXM and TXRM of Zeiss are; {_TO_TIFF}"),
    (0, b"# Amira", f"file of Amira or Avizo; {_TO_TIFF}"),
    (0, b"# Avizo", f"file of Amira or Avizo; {_TO_TIFF}"),
    (0, b"NRRD", f"NRRD; {_TO_TIFF}"),
    (0, b"# vtk", f"VTK file; {_TO_TIFF}"),
)


def other_kind(path: Path) -> str | None:
    """What a file is by its first bytes, and what to do with it; None: nothing that is known, or it cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(_LONGEST_HEADER)
    except OSError:
        return None
    if _EDF.match(start):
        return "file of the ESRF's format EDF; `silx convert` makes an HDF5 file of it"
    if (meta := _META_IMAGE.match(start)) is not None:
        return _of_meta_image(meta)
    return next((kind for at, magic, kind in _KINDS if start.startswith(magic, at)), None)


def _of_meta_image(header: re.Match[bytes]) -> str:
    def says(name: bytes) -> bool:
        return re.search(rb"^%s *= *True" % name, header[0], re.MULTILINE) is not None

    if says(b"CompressedData"):
        return f"MetaImage whose pixels are compressed; {_TO_TIFF}, or without compression"
    order = ", --byteorder big" if says(rb"(?:Binary|Element)\w*ByteOrderMSB") else ""
    if header[1] != b"LOCAL":
        return f"MetaImage header; name the raw file beside it, with --shape and --dtype{order}"
    return (
        f"MetaImage; say how its pixels lie: --shape, --dtype (of labels --label-dtype){order}, --header {header.end()}"
    )
