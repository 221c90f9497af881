"""What a check of `hpcseg doctor` has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "failed", "not checked"]


@dataclass(frozen=True)
class Check:
    """What one check has found."""

    name: str
    verdict: Verdict
    text: str
    """What was found, and what it means."""
    remedy: str = ""
    """What mends it: a flag, a line of a profile, or whom to ask."""
