"""The names of all tables that a job file may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hpcseg.report.collect import Records
from hpcseg.report.comparison import classes, cost, levels, whole_slices
from hpcseg.report.differences import differences
from hpcseg.report.paper_tables import Table, batch_norm, paper_sheet, table1, table2, weight_decay
from hpcseg.report.sheet import Sheet
from hpcseg.report.splits import splits


def _of_the_paper(table: Callable[[Records], Table]) -> Callable[[Records], Sheet]:
    return lambda records: paper_sheet(table(records), records)


TABLES: Mapping[str, Callable[[Records], Sheet]] = {
    "table1": _of_the_paper(table1),
    "table2": _of_the_paper(table2),
    "batch_norm": _of_the_paper(batch_norm),
    "weight_decay": _of_the_paper(weight_decay),
    "splits": splits,
    "differences": differences,
    "levels": levels,
    "classes": classes,
    "whole_slices": whole_slices,
    "cost": cost,
}
"""What a job file may name under report.tables."""
