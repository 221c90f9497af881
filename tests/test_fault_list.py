"""The list of results/faults follows the code: what it takes away is there, and so are the tests that are to notice."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HANDLERS = tomllib.loads((ROOT / "results/faults/handlers.toml").read_text())["handler"]


PAGES = [page.read_text() for page in (ROOT / "results/faults").glob("*.md")]
NAMED = sorted({name for page in PAGES for name in re.findall(r"tests/\S+::\w+", page)})


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_a_table_of_the_faults_names_is_there(name):
    file, _, test = name.partition("::")
    assert f"\ndef {test}(" in (ROOT / file).read_text()


@pytest.mark.parametrize("handler", HANDLERS, ids=[handler["fault"] for handler in HANDLERS])
def test_a_handler_of_the_fault_audit_is_in_the_code(handler):
    assert handler["there"] in (ROOT / "hpcseg" / handler["file"]).read_text()
    assert handler["instead"] != handler["there"]
    for path in re.findall(r"tests/[\w/]+(?:\.py)?", handler["tests"]):
        assert (ROOT / path).exists(), path
