"""Jobs run the code that was submitted, whatever becomes of the checkout meanwhile. On a real Slurm: tests/slurm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkout_copy import ROOT, Checkout

from hpcseg.errors import HpcsegError
from hpcseg.runs import provenance
from hpcseg.runs.folder import RunFolder
from hpcseg.runs.frozen import freeze, in_frozen, shell_lines

LOOK = "import hpcseg; print(hpcseg.__file__)"


def imported(lines: list[str], cwd: Path, environment: dict[str, str]) -> Path:
    """Which hpcseg a job's script with these lines imports."""
    script = "\n".join([*lines, f"{sys.executable} -c '{LOOK}'"])
    said = subprocess.run(["bash", "-ec", script], cwd=cwd, env=environment, capture_output=True, text=True, check=True)
    return Path(said.stdout.strip()).parents[1]


def frozen_files(code: Path) -> dict[str, bytes]:
    return {path.relative_to(code).as_posix(): path.read_bytes() for path in code.rglob("*") if path.is_file()}


def test_a_frozen_copy_is_the_package_and_what_ships_with_it(tmp_path):
    code = freeze(RunFolder(tmp_path))
    files = frozen_files(code)
    package = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "hpcseg", "jobs", "slurm/profiles",
         "slurm/templates"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    expected = {name.removeprefix("slurm/") for name in package if (ROOT / name).exists()}
    # A page that is read does not run.
    expected = {f"hpcseg/{name.removeprefix('hpcseg/')}" for name in expected if not name.endswith(".md")}
    assert set(files) == expected | {"origin.json"}
    assert json.loads(files["origin.json"])["commit"] == provenance.commit()
    assert freeze(RunFolder(tmp_path)) == code, "once per content"


def test_a_copy_of_a_frozen_copy_is_the_same(tmp_path):
    code = freeze(RunFolder(tmp_path / "one"))
    script = f"""
from pathlib import Path
from hpcseg.runs.frozen import freeze
from hpcseg.runs.provenance import commit, diff_sha256
from hpcseg.runs.folder import RunFolder
from hpcseg.jobfile import find_shipped, load_job
assert load_job(find_shipped("job", "smoke")).cells
print(freeze(RunFolder(Path({str(tmp_path / "two")!r}))).name, commit(), diff_sha256())
"""
    environment = {**os.environ, "PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [code.name, str(provenance.commit()), str(provenance.diff_sha256())]


def test_what_is_gone_from_a_frozen_copy_or_damaged_comes_back(tmp_path):
    code = freeze(RunFolder(tmp_path))
    before = frozen_files(code)
    (code / "hpcseg/config.py").unlink()
    (code / "hpcseg/learn/unet.py").write_text("")
    freeze(RunFolder(tmp_path))
    assert frozen_files(code) == before


def test_jobs_that_wait_keep_the_commit_that_they_were_submitted_from(tmp_path, monkeypatch):
    code = freeze(RunFolder(tmp_path))
    before = (code / "origin.json").read_bytes()
    monkeypatch.setattr("hpcseg.runs.frozen.commit", lambda: "a later one, of the same package")
    freeze(RunFolder(tmp_path))
    assert (code / "origin.json").read_bytes() == before
    (code / "origin.json").write_text("")
    freeze(RunFolder(tmp_path))
    assert "a later one" in (code / "origin.json").read_text(), "but one that is damaged is of no use"


def test_a_folder_that_cannot_be_on_the_path_is_refused(tmp_path):
    with pytest.raises(HpcsegError, match='has a ":", at which Python cuts a path in two'):
        freeze(RunFolder(tmp_path / "12:30"))


def test_no_other_code_runs_where_the_frozen_copy_is_gone(tmp_path):
    code = freeze(RunFolder(tmp_path))
    shutil.rmtree(code)
    with pytest.raises(HpcsegError, match="is gone"), in_frozen(code):
        pass
    script = "\n".join([*shell_lines(code), "echo started"])
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert said.returncode == 1 and "is gone. Run `hpcseg retry`" in said.stdout and "started" not in said.stdout


def test_a_change_in_another_encoding_is_a_change(tmp_path, monkeypatch):
    checkout = Checkout(tmp_path / "checkout")
    (checkout.path / "jobs" / "notes.txt").write_bytes(b"caf\xe9\n")
    subprocess.run(["git", "-C", str(checkout.path), "add", "--all"], check=True)
    monkeypatch.setattr(provenance, "_PACKAGE", checkout.path / "hpcseg")
    commit, changes = provenance.origin.__wrapped__()
    assert commit == f"{checkout.commit}-dirty" and "+caf\\xe9" in changes


def test_what_can_change_no_number_is_no_change(tmp_path, monkeypatch):
    checkout = Checkout(tmp_path / "checkout")
    monkeypatch.setattr(provenance, "_PACKAGE", checkout.path / "hpcseg")
    for profile in (checkout.path / "slurm" / "profiles").iterdir():
        profile.unlink()
    (checkout.path / "notes.txt").write_text("added")
    subprocess.run(["git", "-C", str(checkout.path), "add", "--all"], check=True)
    assert provenance.origin.__wrapped__() == (checkout.commit, "")


@pytest.mark.parametrize("changed", ["hpcseg/learn/loop.py", "hpcseg/added.py", "jobs/smoke.toml", "pyproject.toml"])
def test_what_can_change_one_is_a_change(tmp_path, monkeypatch, changed):
    checkout = Checkout(tmp_path / "checkout")
    monkeypatch.setattr(provenance, "_PACKAGE", checkout.path / "hpcseg")
    with (checkout.path / changed).open("a") as file:
        file.write("# changed\n")
    if changed == "pyproject.toml":  # which the copy has not from the beginning
        subprocess.run(["git", "-C", str(checkout.path), "add", changed], check=True)
    commit, changes = provenance.origin.__wrapped__()
    assert commit == f"{checkout.commit}-dirty"
    assert ("+# changed" in changes) == (changed != "hpcseg/added.py"), "what git does not know is in no diff"


def test_another_package_is_another_copy(tmp_path, monkeypatch):
    code = freeze(RunFolder(tmp_path))
    files = provenance.package_files()
    monkeypatch.setattr("hpcseg.runs.frozen.package_files", lambda: {**files, "config.py": b"# other\n"})
    assert freeze(RunFolder(tmp_path)) != code and (code / "hpcseg/config.py").read_bytes() == files["config.py"]


def test_a_dry_run_only_says_where_it_would_be(tmp_path):
    assert freeze(RunFolder(tmp_path), write=False).parents[1] == tmp_path and not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["", "other", "other:"])
def test_the_frozen_copy_comes_before_the_current_folder_and_what_the_user_has_put_on_the_path(
    tmp_path, path, monkeypatch
):
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    run = tmp_path / "a 'run'"
    code = freeze(RunFolder(run))
    other = tmp_path / "other"
    (other / "hpcseg").mkdir(parents=True)
    (other / "hpcseg" / "__init__.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": path.replace("other", str(other))}
    assert imported(shell_lines(code), other, environment) == code
    with in_frozen(code):
        assert imported([], other, dict(os.environ)) == code and Path.cwd() == run
    assert not list(code.rglob("__pycache__")), "made by the umask, and cut off where the disk is full"
    assert os.environ.get("PYTHONSAFEPATH") is None and Path.cwd() != run


def test_a_path_of_the_users_own_is_kept_behind_it(tmp_path):
    code = freeze(RunFolder(tmp_path / "run"))
    (tmp_path / "mine.py").write_text("import hpcseg; print(hpcseg.__file__)")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    script = "\n".join([*shell_lines(code), f"{sys.executable} -c 'import mine'"])
    said = subprocess.run(["bash", "-ec", script], env=environment, capture_output=True, text=True, check=True)
    assert Path(said.stdout.strip()).parents[1] == code


def test_a_local_queue_ends_with_the_numbers_of_the_code_it_was_started_with(tmp_path, tiny_dataset):
    checkout = Checkout(tmp_path / "checkout")
    options = ("grid", "--local", "--workers", "1", "--job", "smoke", "--data", tiny_dataset, "--set", "train.width=2")
    checkout.hpcseg(*options, "--run", tmp_path / "left alone")
    run = tmp_path / "disturbed"
    queue = checkout.start(*options, "--run", run, output=tmp_path / "said")
    deadline = time.monotonic() + 120
    while not list(run.glob("cells/*/events.jsonl")):
        assert queue.poll() is None and time.monotonic() < deadline, (tmp_path / "said").read_text()
        time.sleep(0.05)
    checkout.spoil_and_delete()
    assert queue.wait(300) == 0, (tmp_path / "said").read_text()
    same_numbers(tmp_path / "left alone", run)
    for file in run.glob("cells/*/*.json"):
        if file.name in ("training.json", "evaluation.json"):
            made = json.loads(file.read_text())["provenance"]
            assert made["commit"] == checkout.commit
            assert run / "code" / made["package_sha256"][:16] in run.glob("code/*")


def same_numbers(one: Path, other: Path) -> None:
    cells = sorted(path.name for path in (one / "cells").iterdir())
    assert cells and cells == sorted(path.name for path in (other / "cells").iterdir())
    for cell in cells:
        trained, again = (json.loads((run / "cells" / cell / "training.json").read_text()) for run in (one, other))
        assert trained["model_sha256"] == again["model_sha256"]
        evaluated, again = (json.loads((run / "cells" / cell / "evaluation.json").read_text()) for run in (one, other))
        assert evaluated["points"] == again["points"]
