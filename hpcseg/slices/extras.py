"""Libraries of formats that not everybody has: loaded when they are needed, and named where they are missing."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from hpcseg.errors import ConfigError


def load_extra(module: str, extra: str, path: Path) -> Any:
    """The module; raises ConfigError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(f"{path} needs the package {module}: pip install 'hpcseg[{extra}]'.") from None
