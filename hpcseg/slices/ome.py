"""What OME-XML claims, looked at before tifffile makes lists of so many planes and opens the files that it names."""

from __future__ import annotations

import contextlib
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from hpcseg.errors import DatasetError
from hpcseg.slices.external import Reach
from hpcseg.slices.sizes import refuse_many

_COUNTS = {*(f"{what}{axis}" for what in ("Size", "First") for axis in "ZCT"), "IFD", "NumPlanes", "PlaneCount"}


def check_ome(path: Path, text: str, reach: Reach) -> None:
    """See that there is no harm in what an OME-TIFF claims; what is no XML is left to others.

    Args:
        path: of the file.
        text: its OME-XML.
        reach: where its other files may be.

    Raises:
        DatasetError: it counts too many planes, names a file that is not to be read, or leaves all to another.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return
    own, items = root.get("UUID"), list(root.iter())
    for item in items:
        if item.tag.endswith("BinaryOnly"):
            raise DatasetError(
                f"{path} cannot be used: the OME metadata of its volume are in {item.get('MetadataFile')}. Save the "
                "volume as one OME-TIFF, or take the pages of this file as they are stored: --pixels stored."
            )
        counts = {"": 0}
        for name in _COUNTS & item.attrib.keys():
            with contextlib.suppress(ValueError):  # at which tifffile gives up as well
                counts[name] = int(item.attrib[name])
        refuse_many(path, math.prod(count for name, count in counts.items() if name.startswith("Size")))
        refuse_many(path, max(counts.values()))
        if "Start" in item.attrib:  # of an axis that is divided, whose places are listed
            with contextlib.suppress(ValueError, ZeroDivisionError):
                start, end, step = (float(item.get(name, 1)) for name in ("Start", "End", "Step"))
                refuse_many(path, math.ceil(min(abs((end - start) / step), 1e18)))
        # What has the file's own identity is this file, wherever it was when its name was written.
        if item.tag.endswith("UUID") and (named := item.get("FileName")) and (not own or item.text != own):
            reach.check(path.parent / named)
