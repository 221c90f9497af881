"""The number of the arithmetic: cells of one number, with the same settings and data, end in the same numbers.

It is part of a cell's id and stands in every record, so that numbers of different arithmetic are never mixed. Raise it
in any change after which some cell ends in other numbers: another draw, order, split or first weights, a sum in another
order or format, another epsilon. A renamed variable, a module that moves, a quicker way to the same bits: leave it.
tests/golden fails where numbers change and the number does not; after raising it, run `python tests/golden/make.py`.

    1  all that came before: identified by a hash over source text (code_sha256), and by no number in their records
    2  the first that is written into records. Shuffled splits of overlapping tiles have changed since, and blocked ones
       of another split_seed than 0, later once more where they tested slices of a lower one, and no other cell's
       numbers: split_sha256 in training.json tells them apart, and no cell goes on with another split
"""

NUMERICS = 2
