"""A table of a file in, a frozen dataclass of settings out: strict about keys and types. Knows nothing of the files."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from hpcseg.errors import ConfigError
from hpcseg.sigma import Share, Sigma
from hpcseg.text import shortened

_Config = TypeVar("_Config")


def describes(table: Any, config: Any) -> bool:
    """Whether a stored table is of this config; a setting that came after it was stored has its default."""
    try:
        return bool(build_config(type(config), table, "") == config)
    except ConfigError:
        return False


def build_config(cls: type[_Config], table: Mapping[str, Any], where: str) -> _Config:
    """A config dataclass from a table: strict about keys and types, recursive for nested configs."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: expected a table of settings, found {reprlib.repr(table)}.")
    hints = _type_hints(typing.cast(typing.Hashable, cls))  # which mypy does not see in a type
    refuse_unknown(table, tuple(hints), where)
    values = {key: convert(hints[key], value, f"{where}: {key}") for key, value in table.items()}
    if missing := [name for name in _required(typing.cast(typing.Hashable, cls)) if name not in values]:
        raise ConfigError(f"{where}: {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing.")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


@functools.cache
def _type_hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@functools.cache
def _required(cls: Any) -> tuple[str, ...]:
    fields, none = dataclasses.fields(cls), dataclasses.MISSING
    return tuple(field.name for field in fields if field.default is none and field.default_factory is none)


def convert(hint: Any, value: Any, where: str) -> Any:
    """A value as the type of a field; raises ConfigError with `where` for what cannot be meant."""
    # Most values are right, and a grid of ten thousand cells has a quarter of a million of them.
    if type(value) is hint and (
        hint in (str, bool) or (hint is float and math.isfinite(value)) or (hint is int and -(2**63) <= value < 2**63)
    ):
        return value
    if dataclasses.is_dataclass(hint):
        return build_config(typing.cast(type[Any], hint), value, where)
    if hint == Sigma:
        return _sigma(value, where)
    if words := [part for part in typing.get_args(hint) if typing.get_origin(part) is Literal]:
        (word,) = typing.get_args(words[0])
        if isinstance(value, str) and value != word:
            raise ConfigError(f'{where} must be a whole number or "{word}", found {reprlib.repr(value)}.')
        return value if value == word else convert(int, value, where)
    if isinstance(hint, types.UnionType):  # else only X | None is used
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
        return None if value is None else convert(hint, value, where)
    if typing.get_origin(hint) is tuple:
        if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
            return tuple(value)
        raise ConfigError(f"{where} must be a list of texts, found {reprlib.repr(value)}.")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(f"{where} must be a number of 64 bits, found one of {value.bit_length()}.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} must be a finite number, found {value}.")
    if value == 0 and type(value) is float and hint is float:
        return 0.0  # -0.0 is the same, and would be another cell
    if type(value) is not hint:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
        raise ConfigError(f"{where} must be {names[hint]}, found {reprlib.repr(value)}.")
    return value


def _sigma(value: Any, where: str) -> Sigma:
    """A sigma as it stands in a job file or a record; nothing is nothing in any unit."""
    if not isinstance(value, str):
        number: float = convert(float, value, where)
        return number
    try:
        share = Share(value)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return share if share.per_cent else 0.0


def refuse_unknown(table: Mapping[str, Any], valid: tuple[str, ...], where: str) -> None:
    """Raise ConfigError for the first key that is not valid, with the one that was perhaps meant."""
    for key in table:
        if key not in valid:
            close = difflib.get_close_matches(key, valid, n=1)
            hint = f' Did you mean "{close[0]}"?' if close else ""
            raise ConfigError(f'{where}: unknown key "{shortened(key)}".{hint} Valid keys are {", ".join(valid)}.')
