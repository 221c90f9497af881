"""The file of a job whose cells take seconds on a CPU."""

from __future__ import annotations


def small_job(grid: str, *, epochs: int = 2, needs: str = "") -> str:
    """The text of a job with these lines of its [[grid]], and more lines of its [needs]."""
    return f"""
[data]
tile_size = 64
[train]
width = 4
depth = 2
epochs = {epochs}
batch_size = 4
precision = "fp32"
[needs]
gpus = 0
{needs}
[[grid]]
{grid}
"""
