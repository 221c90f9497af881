"""What this machine is: GPU, driver, versions, and how long torch and a CUDA context take to be there.

python3 results/bench/gpu/facts.py FILE.json
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_began = time.perf_counter()
import torch  # noqa: E402  # how long this takes is one of the facts

_IMPORT_SECONDS = time.perf_counter() - _began
_PACKAGES = ("numpy", "h5py", "imagecodecs", "submitit", "tifffile", "triton", "pytest", "pytest-xdist", "hypothesis")
_TOOLS = ("nvidia-cuda-mps-control", "nsys", "ncu", "nvcc")


def facts() -> dict[str, Any]:
    """Everything, as a JSON-like value."""
    on_gpu = torch.cuda.is_available()
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())] if on_gpu else [],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())) if on_gpu else None,
            **{name: _version(name) for name in _PACKAGES},
        },
        "tools": {name: shutil.which(name) for name in _TOOLS},
        "cores": len(os.sched_getaffinity(0)),
        "memory GiB": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "disk GiB": shutil.disk_usage(".").free / 2**30,
        "seconds": {"import torch": _IMPORT_SECONDS, "context": _context_seconds() if on_gpu else None},
        "nvidia-smi": _said("nvidia-smi"),
        "nvidia-smi -q": _said("nvidia-smi", "-q", "-d", "CLOCK,POWER,COMPUTE"),
    }


def _gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory GiB": properties.total_memory / 2**30,
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _context_seconds() -> float:
    began = time.perf_counter()
    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    return time.perf_counter() - began


def _said(*command: str) -> list[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None


if __name__ == "__main__":
    found = facts()
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1))
    print(json.dumps({name: value for name, value in found.items() if not name.startswith("nvidia")}, indent=1))
