"""Cells' settings and a packed file in, a sentence out where noise of such strength or kind means nothing there."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hpcseg.config import CellConfig, noise_models
from hpcseg.data.grey import PAPER_SPAN
from hpcseg.data.store import DatasetInfo
from hpcseg.errors import ConfigError
from hpcseg.sigma import MOST_SPANS, Share, amount


def check_noise(cells: Iterable[CellConfig], info: DatasetInfo) -> None:
    """See that the noise of all cells fits the grey values of their data set, before anything runs.

    Raises:
        ConfigError: a sigma in counts is of other data, or a model of noise, or what becomes of its values, needs
            grey values that these are not.
        DatasetError: a sigma is a share of a span that is not known.
    """
    strong: dict[tuple[str, float], None] = {}
    for cell in cells:
        _check_kind(cell, info)
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
        shares = ((name, 100 * min(sigma / PAPER_SPAN, MOST_SPANS)) for name, sigma in strong)
        instead = ", ".join(f'{name} = "{share:.3g} %"' for name, share in shares)
        raise ConfigError(
            f"{' and '.join(f'{name} is {sigma:g} counts' for name, sigma in strong)}, but the grey values of "
            f"{info.path.name} span {high - low:g} ({low:g} to {high:g} at 0.1 and 99.9 %), and beyond {MOST_SPANS:g} "
            "spans noise leaves nothing to see. Write a share of the span instead; as strong as on the paper's slices "
            f"is {instead}."
        )


def _check_kind(cell: CellConfig, info: DatasetInfo) -> None:
    models = {"train.noise_model": cell.train.noise_model if cell.train.noise_fraction else ""}
    models["evaluate.other_noise"] = cell.evaluate.other_noise
    darkest = int(info.grey_min.argmin())
    for name, value in models.items():
        if not value or "poisson" not in noise_models(value, name):
            continue
        needs = f'{name} is "{value}", but poisson, which counts photons, needs'
        if info.grey_min[darkest] < 0:
            raise ConfigError(
                f"{needs} grey values of 0 or more, and {info.image_names[darkest]} in {info.path.name} has "
                f"{info.grey_min[darkest]:g}. Take another model of noise, or add a constant to all slices and pack "
                "them again."
            )
        if info.grey.low < 0 and np.dtype(info.dtype).kind == "f" and info.ignored_pixels.any():
            raise ConfigError(
                f"{needs} grey values of 0 or more, and pixels without one (NaN) get the lower end of the grey scale, "
                f"which in {info.path.name} is {info.grey.low:g}. Take another model of noise, or pack the slices "
                "again with another --grey-range."
            )
        if info.grey.middle <= 0:
            raise ConfigError(
                f"{needs} a grey scale whose middle is above 0, and that of {info.path.name} is {info.grey.low:g} to "
                f"{info.grey.high:g}. Take another model of noise, or pack the slices again with another --grey-range."
            )
    if cell.data.out_of_range != "keep" and np.dtype(info.dtype).kind == "f":
        raise ConfigError(
            f'data.out_of_range is "{cell.data.out_of_range}", but {info.path.name} holds {info.dtype} grey values, '
            'whose type has no ends that noise would reach. Set it to "keep".'
        )
