"""In a copy of the code: what may be tidied changes no cell id, and what changes numbers is noticed in one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpcseg.numerics import NUMERICS

ROOT = Path(__file__).parents[2]
IDS = """
import json, sys, golden
print(json.dumps([cell.cell_id(data_sha256="d", numerics=golden.NUMERICS) for cell in golden.cells().values()]))
"""


@pytest.fixture
def copy(tmp_path) -> Path:
    for name in ("hpcseg", "tests/golden", "jobs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "tests/conftest.py", "tests/slice_folder.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(copy), str(copy / "tests/golden")])}
    return subprocess.run([sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True)


def ids_here() -> list[str]:
    """What IDS prints of the code that was copied."""
    import golden

    return [cell.cell_id(data_sha256="d", numerics=golden.NUMERICS) for cell in golden.cells().values()]


def edit(copy: Path, name: str, old: str, new: str) -> None:
    text = (copy / name).read_text()
    assert old in text, f"{name} no longer has {old!r}"
    (copy / name).write_text(text.replace(old, new))


def keep_cells(copy: Path, names: tuple[str, ...]) -> None:
    """Only those that a test looks at."""
    with (copy / "tests/golden/golden.py").open("a") as file:
        file.write(f"\n\nall_cells = cells\ncells = lambda: {{name: all_cells()[name] for name in {names}}}\n")
    expected = json.loads((copy / "tests/golden/expected.json").read_text())
    expected["cells"] = {name: expected["cells"][name] for name in names}
    (copy / "tests/golden/expected.json").write_text(json.dumps(expected))


def test_a_renamed_variable_changes_no_id_of_a_cell(copy):
    before = ids_here()
    edit(copy, "hpcseg/learn/unet.py", "skips", "kept")
    assert json.loads(run(copy, "-c", IDS).stdout) == before and len(set(before)) > 10


def test_another_numerics_number_changes_the_ids_of_all_cells(copy):
    edit(copy, "hpcseg/numerics.py", f"NUMERICS = {NUMERICS}", f"NUMERICS = {NUMERICS + 1}")
    after = json.loads(run(copy, "-c", IDS).stdout)
    assert len(after) > 10 and not set(after) & set(ids_here())


def test_a_changed_sum_in_the_noise_fails_with_what_to_do(copy):
    keep_cells(copy, ("noise-gaussian", "noise-uniform"))
    edit(copy, "hpcseg/data/noise.py", "noisy += np.float32(sigma) *", "noisy += np.float32(1.0001 * sigma) *")
    said = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/golden/test_golden.py")
    assert said.returncode == 1, said.stdout
    (sentence,) = [line for line in said.stdout.splitlines() if line.startswith("E       AssertionError: ")]
    assert f"Numbers have changed and NUMERICS is still {NUMERICS}" in sentence
    assert "raise NUMERICS in hpcseg/numerics.py and run `python tests/golden/make.py`" in sentence
    assert "noise-gaussian (training noise of epoch 0 is off by" in sentence and "noise-uniform" not in sentence
    told = run(copy, "tests/golden/make.py")
    assert told.returncode == 1 and "NUMERICS is still" in told.stderr, "nor can the file be made to say so"


def test_a_file_of_another_number_or_without_a_cell_fails():
    import golden

    found = golden.read_expected()
    assert golden.complaint(found, found) is None
    assert "is of numerics 1 but" in str(golden.complaint(found, {**found, "numerics": 1}))
    fewer = {**found, "cells": {name: of for name, of in found["cells"].items() if name != "precision-bf16"}}
    assert "(precision-bf16): run `python tests/golden/make.py`" in str(golden.complaint(found, fewer))


def test_a_number_that_is_no_number_or_missing_is_another_one():
    import golden

    expected = golden.read_expected()
    losses = expected["cells"]["noise-gaussian"]["later losses"]
    for other in ({**losses, "train_loss": [float("nan")] * 2}, {"train_loss": losses["train_loss"]}):
        cells = {**expected["cells"], "noise-gaussian": {**expected["cells"]["noise-gaussian"], "later losses": other}}
        assert "noise-gaussian (" in str(golden.complaint({**expected, "cells": cells}, expected))
