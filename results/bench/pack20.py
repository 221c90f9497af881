"""pack of a stack of 20 GB: bytes per second, and peak memory.

    python results/bench/pack20.py FOLDER COMPRESSION > pack.json

FOLDER needs 70 GB. COMPRESSION is one of `hpcseg.bench.packing.COMPRESSIONS`, which also says what is measured, and
against what.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

from hpcseg.bench.packing import measure_packing
from hpcseg.runs.machine import device_facts
from hpcseg.runs.provenance import collect

_SLICES, _SIZE, _ROUNDS = 1667, 2048, 3

folder, compression = sys.argv[1:]
with tempfile.TemporaryDirectory(dir=folder) as scratch:
    record = {
        "provenance": collect(
            device=device_facts(torch.device("cpu")),
            command=f"results/bench/pack20.py FOLDER {compression}",
            data_sha256="",
        ),
        "rounds": _ROUNDS,
        "compression": compression,
        "pack": measure_packing(
            Path(scratch), compression=compression, slices=_SLICES, size=_SIZE, seconds=1, rounds=_ROUNDS
        ),
    }
print(json.dumps(record, indent=1))
