"""The list of results/faults follows the code: what it takes away is there, and so are the tests that are to notice."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HANDLERS = tomllib.loads((ROOT / "results/faults/handlers.toml").read_text())["handler"]


@pytest.mark.parametrize("handler", HANDLERS, ids=[handler["fault"] for handler in HANDLERS])
def test_a_handler_of_the_fault_audit_is_in_the_code(handler):
    assert handler["there"] in (ROOT / "hpcseg" / handler["file"]).read_text()
    assert handler["instead"] != handler["there"]
    for path in re.findall(r"tests/[\w/]+(?:\.py)?", handler["tests"]):
        assert (ROOT / path).exists(), path
