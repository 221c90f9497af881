"""The number of the arithmetic: cells of one number, with the same settings and data, end in the same numbers.

It is part of a cell's id and stands in every record, so that numbers of different arithmetic are never mixed. Raise it
in any change after which some cell ends in other numbers: another draw, order, split or first weights, a sum in another
order or format, another epsilon. A renamed variable, a module that moves, a quicker way to the same bits: leave it.
tests/golden fails where numbers change and the number does not; after raising it, run `python tests/golden/make.py`.

    1  all that came before: identified by a hash over source text (code_sha256), and by no number in their records
    2  the first that is written into records. Shuffled splits of overlapping tiles have changed since, and no other
       cell's numbers: split_sha256 in training.json tells them apart, and no cell goes on with another split
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NUMERICS = 2


def describe_code(record: Mapping[str, Any], *, digits: int | None = None) -> str:
    """What a plan or a record says of the code behind its numbers; equal for those that may stand side by side.

    Args:
        record: with `numerics`, or of before these numbers with `code_sha256`.
        digits: of a hash that are shown; None: all, without which nothing must be compared.
    """
    if "numerics" in record:
        return f"numerics {record['numerics']}"
    code = record.get("code_sha256")
    return f"code hash {str(code)[:digits]}, before numerics numbers" if code else "code not stated"
