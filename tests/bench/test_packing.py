"""The bench of pack on two small stacks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import tifffile

from hpcseg.bench import packing
from hpcseg.data import store
from hpcseg.errors import HpcsegError


@pytest.mark.parametrize("compression", packing.COMPRESSIONS)
def test_pack_takes_turns_with_decoding_and_writing(tmp_path, compression):
    found = packing.measure_packing(tmp_path, compression=compression, slices=3, size=256, seconds=0.01, rounds=1)
    with tifffile.TiffFile(tmp_path / "images.tif") as stack:
        assert stack.pages[0].compression.name == {
            "none": "NONE", "PackBits": "PACKBITS", "deflate": "ADOBE_DEFLATE", "JPEG XL": "JPEGXL"
        }[compression]  # fmt: skip
    everyone = {packing.OURS, packing.DECODE, packing.WRITE}
    assert set(found["bytes_per_second"]) == everyone
    assert all(rate > 0 for rate in found["bytes_per_second"].values())
    assert found["slower"] in (packing.DECODE, packing.WRITE)
    slower = found["bytes_per_second"][found["slower"]]
    assert found["against"][found["slower"]] == pytest.approx(found["bytes_per_second"][packing.OURS] / slower)
    assert 20 < found["peak_memory_mib"] < 1000

    store.verify(tmp_path / "packed.h5", lambda *_: None)
    info = store.read_info(tmp_path / "packed.h5")
    assert info.shape == (3, 256, 256)
    assert len(set(info.image_sha256)) == 3
    assert found["file_bytes"] == (tmp_path / "packed.h5").stat().st_size


def test_a_pack_that_fails_is_told_with_its_reason(tmp_path, monkeypatch):
    def damaged(folder, *, compression, slices, size):
        for path in packing._stacks(folder):
            path.write_bytes(b"no TIFF")

    monkeypatch.setattr(packing, "_write_stacks", damaged)
    with pytest.raises(HpcsegError, match=r"failed in the bench: error: .*images.tif is not a readable TIFF"):
        packing.measure_packing(tmp_path, compression="none", slices=3, size=256, seconds=0.01, rounds=1)


def test_memory_is_that_of_a_process_and_its_children():
    fill = f"{sys.executable} -c 'import time; held = bytearray(50 * 2**20); print(flush=True); time.sleep(60)'"
    parent = subprocess.Popen(["sh", "-c", f"{fill} & {fill} & wait"], stdout=subprocess.PIPE, process_group=0)
    try:
        parent.stdout.readline()
        parent.stdout.readline()
        peaks = packing._peaks(parent.pid)
        assert len(peaks) == 3
        assert 100 < sum(peaks) / 2**10 < 200
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate()
    assert packing._peaks(parent.pid) == []
