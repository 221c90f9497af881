"""pack of a stack of 20 GB: bytes per second, and peak memory.

    python results/bench/pack20.py FOLDER > pack.json

FOLDER needs 70 GB. What is measured, and against what: hpcseg/bench/packing.py.
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

with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
    record = {
        "provenance": collect(
            device=device_facts(torch.device("cpu")), command="results/bench/pack20.py FOLDER", data_sha256=""
        ),
        "rounds": 1,
        "pack": measure_packing(Path(folder), compression="none", slices=1667, size=2048, seconds=1, rounds=1),
    }
print(json.dumps(record, indent=1))
