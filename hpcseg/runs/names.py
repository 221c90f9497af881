"""What to call the cells of a run where there is no room for their ids: by what sets them apart."""

from __future__ import annotations

from collections.abc import Sequence

from hpcseg.runs.grid import Cell


def short_names(cells: Sequence[Cell]) -> dict[str, str]:
    """By id, as little of the ids as tells these cells apart: "small-p050".

    A setting that follows from those before it is left out. A cell of which nothing is left, such as an only one, has
    the first part of its id.
    """
    parts = {cell.id: cell.config.name_parts() for cell in cells}
    every = dict.fromkeys(name for of in parts.values() for name in of)
    wanted = [name for name in every if len({of.get(name) for of in parts.values()}) > 1]
    for name in reversed(wanted.copy()):
        fewer = [one for one in wanted if one != name]
        if len({tuple(of.get(one) for one in fewer) for of in parts.values()}) == len(parts):
            wanted = fewer
    names = {cell_id: "-".join(of[name] for name in wanted if name in of) for cell_id, of in parts.items()}
    return {cell_id: name or next(iter(parts[cell_id].values())) for cell_id, name in names.items()}
