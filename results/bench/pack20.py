"""pack of a stack of 20 GB, or of another size: bytes per second, and peak memory.

    python results/bench/pack20.py FOLDER COMPRESSION [SLICES SIZE] > pack.json

FOLDER needs 70 GB, or 3.5 times the size of SLICES of SIZE x SIZE pixels. COMPRESSION is one of
`hpcseg.bench.packing.COMPRESSIONS`, which also says what is measured, and against what: here the loop that people write
as well.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

import torch

from hpcseg.bench.packing import measure_packing
from hpcseg.runs.machine import device_facts
from hpcseg.runs.provenance import collect

_SLICES, _SIZE, _ROUNDS = 1667, 2048, 3

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
folder, compression, *stack = sys.argv[1:]
slices, size = map(int, stack or (_SLICES, _SIZE))
with tempfile.TemporaryDirectory(dir=folder) as scratch:
    record = {
        "provenance": collect(
            device=device_facts(torch.device("cpu")),
            command=shlex.join(["results/bench/pack20.py", "FOLDER", *sys.argv[2:]]),
            data_sha256="",
        ),
        "rounds": _ROUNDS,
        "compression": compression,
        "pack": measure_packing(
            Path(scratch),
            compression=compression,
            slices=slices,
            size=size,
            seconds=1,
            rounds=_ROUNDS,
            others={"plain loop": "contenders.plain_pack:piece"},
        ),
    }
print(json.dumps(record, indent=1))
