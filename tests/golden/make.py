"""Writes tests/golden/expected.json anew, after NUMERICS was raised or a setting was added: python tests/golden/make.py

Numbers of one NUMERICS never change. Only where they were never published, delete the file first.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from golden import EXPECTED, complaint, measure, read_expected

with tempfile.TemporaryDirectory() as folder:
    found = measure(Path(folder))
if EXPECTED.exists() and (expected := read_expected())["numerics"] == found["numerics"]:
    both = set(found["cells"]) & set(expected["cells"])
    one, other = ({**of, "cells": {name: of["cells"][name] for name in both}} for of in (found, expected))
    if told := complaint(one, other):
        raise SystemExit(told)
    # What is there stays to the last digit, whatever machine this is.
    found["cells"] |= other["cells"]
EXPECTED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
print(f"wrote {EXPECTED.name}: {len(found['cells'])} cells of numerics {found['numerics']}")
