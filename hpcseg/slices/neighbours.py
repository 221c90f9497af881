"""Which slices a network takes together with the one that it labels. Numbers in, places out; this alone decides it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def neighbours(numbers: Sequence[int] | np.ndarray, index: int, context: int) -> list[int]:
    """Indices of the 2 `context` + 1 slices that are the channels of one, by their numbers; it is the middle one.

    Where the stack ends or its numbers have a hole, the last slice before that stands for those beyond.

    Args:
        numbers: (N,) of the slices, ascending, each once.
        index: of the slice in the middle, 0 to N - 1.
        context: slices on each side.
    """

    def there(away: int) -> bool:
        return 0 <= index + away < len(numbers) and numbers[index + away] - numbers[index] == away

    before, behind = (max(away for away in range(context + 1) if there(step * away)) for step in (-1, 1))
    return [index + min(max(away, -before), behind) for away in range(-context, context + 1)]


def any_neighbours(numbers: Sequence[int] | np.ndarray) -> bool:
    """Whether the number of a slice follows that of another: else none has a neighbour."""
    return bool((np.diff(numbers) == 1).any())
