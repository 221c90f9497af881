"""RUN/baselines/*.json: what a filter of blur and grey thresholds reaches on the test sets of a run's cells."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from hpcseg.config import NoiseLevel, Share, describes
from hpcseg.errors import IncompleteError
from hpcseg.records.collect import Records
from hpcseg.records.row import Row
from hpcseg.runs.record import read_json

_Filters = dict[tuple[str, int], tuple[Mapping[str, object], dict[str, np.ndarray]]]


def filters(records: Records, row: Row) -> Mapping[str, np.ndarray]:
    """Confusion matrices of the filter on a cell's test set, by noise level."""
    split = str(row.training.record.get("split_sha256")) if row.training else ""
    data, of_level = _read(records).get((split, row.config.evaluate.seed), ({}, {}))
    return of_level if describes(data, row.config.data) else {}


@functools.lru_cache(maxsize=4)
def _read(records: Records) -> _Filters:
    """Settings of the data and confusion matrices, by split and seed of the test noise."""
    found: _Filters = {}
    for path in sorted((records.run.path / "baselines").glob("*.json")):
        try:
            content = read_json(path)
        except IncompleteError:
            continue
        of_level = {}
        for point in content["points"]:
            sigma = Share(point["sigma"]) if isinstance(point["sigma"], str) else float(point["sigma"])
            if point["baseline"] == "filter":
                of_level[NoiseLevel(sigma, point["noise"], point["fraction"]).key] = np.array(point["confusion"])
        found[content["split_sha256"], content["evaluate_seed"]] = content["data"], of_level
    return found
