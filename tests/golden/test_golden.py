"""Numbers change only together with NUMERICS: tiny cells with every setting that decides numbers, against a file."""

from __future__ import annotations

from golden import complaint, measure, read_expected


def test_the_numbers_are_those_of_the_file(tmp_path):
    told = complaint(measure(tmp_path), read_expected())
    assert told is None, told
