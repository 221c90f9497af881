"""A copy of this checkout for a test to submit from, to spoil and to delete."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Checkout:
    """A copy under git in which hpcseg runs as in a user's clone: from its root, with the copy on the path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copytree(ROOT / "hpcseg", path / "hpcseg", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "jobs", path / "jobs")
        for name in ("profiles", "templates"):
            shutil.copytree(ROOT / "slurm" / name, path / "slurm" / name)
        git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org", "-C", str(path)]
        for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "a copy"]):
            subprocess.run([*git, *command], check=True)
        told = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        self.commit = told.stdout.strip()

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.path), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}

    def start(self, *arguments: object, output: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "hpcseg", *map(str, arguments)]
        with output.open("wb") as file:
            return subprocess.Popen(command, cwd=self.path, env=self.environment(), stdout=file, stderr=file)

    def hpcseg(self, *arguments: object) -> str:
        command = [sys.executable, "-m", "hpcseg", *map(str, arguments)]
        answer = subprocess.run(
            command, cwd=self.path, env=self.environment(), capture_output=True, text=True, timeout=300
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.path / "hpcseg" / name
        text = path.read_text()
        assert old in text, f"{name} no longer has {old!r}"
        path.write_text(text.replace(old, new))

    def spoil_and_delete(self) -> None:
        """Another noise, then no Python at all, then gone: whoever looks at it again does something else, or ends."""
        self.edit("data/noise.py", "np.float32(sigma) * rng", "np.float32(2 * sigma) * rng")
        for name in ("learn/loop.py", "runs/execute.py", "cluster/tasks/cell.py", "cluster/tasks/report.py"):
            path = self.path / "hpcseg" / name
            path.write_text("this is no Python\n" + path.read_text())
        shutil.rmtree(self.path)
