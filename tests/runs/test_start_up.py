"""What a process loads before its first step, which every cell that has a process of its own waits for."""

from __future__ import annotations

import subprocess
import sys

from hpcseg.runs.folder import RunFolder

JOB = """
[data]
tile_size = 64
tiles = "1x1"
[train]
width = 2
depth = 1
epochs = 1
precision = "fp32"
[needs]
gpus = 0
[[grid]]
train.schedule = "constant"
"""
# Seconds each: torch's compiler, and its algebra of shapes that are not known yet.
UNUSED = ["torch._dynamo", "torch._inductor", "sympy"]


def test_a_cell_is_trained_and_evaluated_without_torchs_compiler(tmp_path, tiny_dataset):
    (tmp_path / "job.toml").write_text(JOB)
    script = (
        "import sys\nfrom hpcseg.cli.app import app\napp(sys.argv[1:], standalone_mode=False)\n"
        f"print('loaded:', [name for name in {UNUSED} if name in sys.modules], 'torch' in sys.modules)"
    )
    options = ("--job", tmp_path / "job.toml", "--data", tiny_dataset, "--run", tmp_path / "run")
    command = [sys.executable, "-c", script, "train", "*", *map(str, options)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert answer.returncode == 0, answer.stderr
    (cell,) = RunFolder(tmp_path / "run").cell_folders()
    assert cell.evaluation_file.exists()
    assert answer.stdout.endswith("loaded: [] True\n")
