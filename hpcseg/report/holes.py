"""Holes in, what a reader is told of them out: each remedy once, and repetitions that lack the same as one hole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hpcseg.records.groups import Group
from hpcseg.records.row import Hole
from hpcseg.text import counted


@dataclass(frozen=True)
class ToldHole:
    """One or several holes of one reason and remedy."""

    number: int
    """By which tables name it."""
    subjects: tuple[str, ...]
    """As of `Hole`: one, or repetitions of one training."""
    reason: str
    """One sentence."""

    @property
    def others(self) -> str:
        """The words for all subjects but the first; empty: there are none."""
        return f" and {counted(len(self.subjects) - 1, 'repetition')} of it" if self.subjects[1:] else ""

    def __str__(self) -> str:
        return f"{self.subjects[0]}{self.others}: {self.reason}"


def told_holes(holes: Iterable[Hole], groups: Iterable[Group]) -> dict[str, tuple[ToldHole, ...]]:
    """Holes by what to do about them, each remedy where its first hole is; numbers count on from one to the next.

    Args:
        holes: of the report.
        groups: of its cells.
    """
    training_of = {row.id: group.id for group in groups for row in group.rows}
    by_remedy: dict[str, dict[tuple[str, str], list[str]]] = {}
    for hole in holes:
        alike = by_remedy.setdefault(hole.remedy, {})
        alike.setdefault((training_of.get(hole.subject, hole.subject), hole.reason), []).append(hole.subject)
    told, number = dict[str, tuple[ToldHole, ...]](), 1
    for remedy, alike in by_remedy.items():
        found = enumerate(alike.items(), start=number)
        told[remedy] = tuple(ToldHole(place, tuple(subjects), reason) for place, ((_, reason), subjects) in found)
        number += len(alike)
    return told
