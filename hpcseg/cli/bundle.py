"""Options that several verbs share, listed once: a dataclass whose fields are options stands for all of them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any


def unbundled(verb: Callable[..., None]) -> Callable[..., None]:
    """The same verb as typer reads it: where a parameter's type is a dataclass, the fields of it stand as options."""
    signature = inspect.signature(verb, eval_str=True)
    bundles = {name: one.annotation for name, one in signature.parameters.items() if _is_bundle(one)}
    if not bundles:
        return verb
    parameters = [
        option.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, one in signature.parameters.items()
        for option in (
            inspect.signature(bundles[name], eval_str=True).parameters.values() if name in bundles else [one]
        )
    ]

    def call(**given: Any) -> None:
        for name, bundle in bundles.items():
            given[name] = bundle(**{field.name: given.pop(field.name) for field in dataclasses.fields(bundle)})
        verb(**given)

    call.__name__, call.__doc__ = verb.__name__, verb.__doc__
    call.__annotations__ = {option.name: option.annotation for option in parameters}
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call


def _is_bundle(parameter: inspect.Parameter) -> bool:
    return isinstance(parameter.annotation, type) and dataclasses.is_dataclass(parameter.annotation)
