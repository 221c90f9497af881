"""Takes away the code that handles a fault, one handler at a time, and looks which test notices.

    python results/faults/audit.py OUT.md [PATTERN]            # all that need no Slurm
    python results/faults/audit.py OUT.md PATTERN --slurm      # those that the tests on a real Slurm see

Every change is made in a copy of the committed tree. A handler whose loss no test notices is printed as "SURVIVED", and
the exit code is 1.
"""

from __future__ import annotations

import fnmatch
import os
import re
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

_SECONDS = 200
_SECONDS_ON_SLURM = 600
ROOT = Path(__file__).resolve().parents[2]


class Handler(NamedTuple):
    """The code that handles one fault."""

    fault: str
    file: str
    there: str
    instead: str
    tests: str
    """Arguments of pytest."""
    slurm: bool = False


def noticed(tree: Path, handler: Handler) -> str:
    """The first test that fails without the handler; empty where none does."""
    file = tree / "hpcseg" / handler.file
    text = file.read_text()
    if text.count(handler.there) < 1:
        raise SystemExit(f"{handler.fault}: {handler.file} no longer has {handler.there!r}")
    file.write_text(text.replace(handler.there, handler.instead))
    command = f"{sys.executable} -m pytest -q -x --no-header -p no:cacheprovider {handler.tests}"
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            shell=True,
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(_SECONDS_ON_SLURM if handler.slurm else _SECONDS)
        except subprocess.TimeoutExpired:
            # Ranks that wait for each other wait for ever; they are children of the tests.
            os.killpg(process.pid, signal.SIGKILL)
            return "(the tests never end)"
        finally:
            file.write_text(text)
        output.seek(0)
        said = output.read()
    if code < 0 or code > 128:
        return "(a signal ends the tests)"
    if code not in (0, 1):
        raise SystemExit(f"{handler.fault}: pytest cannot run {handler.tests}: {said}")
    if code == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) (tests/\S+)", said, flags=re.MULTILINE)
    return found[1].split("[")[0] if found else f"exit code {code}"


def main(out: str, pattern: str = "*", *, slurm: bool) -> int:
    """Write the table of the handlers whose fault fits a pattern; returns the exit code."""
    table = tomllib.loads(Path(__file__).with_name("handlers.toml").read_text())
    handlers = [Handler(**one) for one in table["handler"]]
    handlers = [one for one in handlers if one.slurm == slurm and fnmatch.fnmatch(one.fault, pattern)]
    lines = ["| without what handles | in | this test fails |", "|---|---|---|"]
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "main"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tree)], check=True)
        (Path(folder) / "shared").symlink_to(ROOT.parent / "shared")
        for number, handler in enumerate(handlers, start=1):
            test = noticed(tree, handler)
            survived += not test
            lines.append(f"| {handler.fault} | {handler.file} | {test or '**none**'} |")
            print(f"{number}/{len(handlers)} {handler.fault}: {test or 'SURVIVED'}", flush=True)
            Path(out).write_text("\n".join(lines) + "\n")
    return 1 if survived else 0


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--slurm"]
    raise SystemExit(main(*arguments, slurm="--slurm" in sys.argv))
