"""The strength of noise, in counts of the grey values or as a share of their span, and how it is written."""

from __future__ import annotations

import re

from hpcseg.errors import ConfigError
from hpcseg.text import shortened, shown

_SHARE = re.compile(r"\s*([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%\s*")
MOST_SPANS = 2.0
"""Beyond so many spans of the grey values a sigma leaves nothing of a slice to see."""


class Share(str):
    """A sigma as a share of the span of the data's grey values, from their 0.1 % to their 99.9 % quantile: "33 %".

    A text, so that it stands in job files, records and cell ids as it is written here; `GreyScale.counts` makes counts
    of it. Raises ConfigError for a text that says no such share.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Share:
        """The share that a text says, written in one way."""
        said = _SHARE.fullmatch(text)
        if said is None or float(said[1]) > 100 * MOST_SPANS:
            raise ConfigError(
                f'"{shortened(text)}" is no sigma: it must be a number of counts, or a share of the span of the grey '
                f'values, from 0 to {100 * MOST_SPANS:g} %, such as "33 %".'
            )
        return super().__new__(cls, f"{shown(float(said[1]))} %")

    @property
    def per_cent(self) -> float:
        """The number before the sign."""
        return float(self.removesuffix(" %"))


Sigma = float | Share
"""The strength of noise: counts of the grey values, or a share of the span that they have."""


def amount(sigma: Sigma) -> float:
    """The number of a sigma, in its own unit: counts, or per cent."""
    return sigma.per_cent if isinstance(sigma, Share) else sigma


def in_words(sigma: Sigma) -> str:
    """A sigma with its unit."""
    return f"{sigma} of the span of the grey values" if isinstance(sigma, Share) else f"{sigma:g} counts"
