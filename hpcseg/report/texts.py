"""The words around the numbers, and by them the names of all tables and figures. Imports nothing that draws."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from hpcseg.config import ReportConfig
from hpcseg.errors import ConfigError

TEXTS: Mapping[str, Any] = tomllib.loads(
    resources.files("hpcseg.report").joinpath("templates/texts.toml").read_text(encoding="utf-8")
)
"""Titles, captions and questions, each table and figure by its name."""


def check_names(wanted: ReportConfig, where: str) -> None:
    """Raise ConfigError where a report names a table or a figure that does not exist; `where` is the file that does."""
    for kind, names, valid in (
        ("table", wanted.tables, list(TEXTS["tables"])),
        ("figure", wanted.figures, sorted(TEXTS["figures"])),
    ):
        for name in names:
            if name not in valid:
                raise ConfigError(
                    f'{where}: report.{kind}s names the {kind} "{name}". Valid names are {", ".join(valid)}.'
                )
