"""Cells' settings and a packed file in, a sentence out where noise of such strength or kind means nothing there."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hpcseg.config import MOST_SPANS, CellConfig, Share, amount, noise_models
from hpcseg.data.grey import PAPER_SPAN
from hpcseg.data.store import DatasetInfo
from hpcseg.errors import ConfigError


def check_noise(cells: Iterable[CellConfig], info: DatasetInfo) -> None:
    """See that the noise of all cells fits the grey values of their data set, before anything runs.

    Raises:
        ConfigError: a sigma in counts is of other data, or a model of noise, or what becomes of its values, needs
            grey values that these are not.
        DatasetError: a sigma is a share of a span that is not known.
    """
    strong: dict[tuple[str, float], None] = {}
    for cell in cells:
        _refuse_negative(cell, info)
        _refuse_floats(cell, info)
        for name, sigma in (*cell.train.used_sigmas(), *cell.evaluate.used_sigmas()):
            counts = info.grey.counts(sigma)
            # Of slices with hardly more than one value nothing can be said.
            if isinstance(sigma, Share) or not info.grey.span or counts <= MOST_SPANS * info.grey.span:
                continue
            strong[name, counts] = None
            if name == "evaluate.sweep_max":
                strong["evaluate.sweep_step", amount(cell.evaluate.sweep_step)] = None
    if strong:
        assert info.grey.quantiles is not None
        low, high = info.grey.quantiles
        raise ConfigError(
            f"{' and '.join(f'{name} is {sigma:g} counts' for name, sigma in strong)}, but the grey values of "
            f"{info.path.name} span {high - low:g} ({low:g} to {high:g} at 0.1 and 99.9 %), and beyond {MOST_SPANS:g} "
            "spans noise leaves nothing to see. Write a share of the span instead; as strong as on the paper's slices "
            f"is {', '.join(f'{name} = {_share_on_paper(sigma)}' for name, sigma in strong)}."
        )


def _refuse_negative(cell: CellConfig, info: DatasetInfo) -> None:
    models = {
        **({"train.noise_model": cell.train.noise_model} if cell.train.noise_fraction else {}),
        **({"evaluate.other_noise": cell.evaluate.other_noise} if cell.evaluate.other_noise else {}),
    }
    darkest = int(info.grey_min.argmin())
    for name, value in models.items():
        if "poisson" in noise_models(value, name) and info.grey_min[darkest] < 0:
            raise ConfigError(
                f'{name} is "{value}", but poisson, which counts photons, needs grey values of 0 or more, and '
                f"{info.image_names[darkest]} in {info.path.name} has {info.grey_min[darkest]:g}. Take another model "
                "of noise, or add a constant to all slices and pack them again."
            )


def _refuse_floats(cell: CellConfig, info: DatasetInfo) -> None:
    if cell.data.out_of_range != "keep" and np.dtype(info.dtype).kind == "f":
        raise ConfigError(
            f'data.out_of_range is "{cell.data.out_of_range}", but {info.path.name} holds {info.dtype} grey values, '
            'whose type has no ends that noise would reach. Set it to "keep".'
        )


def _share_on_paper(sigma: float) -> str:
    """A sigma in counts as a share of the span of the data that it was chosen for."""
    return f'"{min(100 * sigma / PAPER_SPAN, 100 * MOST_SPANS):.3g} %"'
