"""Bounds of values, written once in their type: ``lr: Annotated[float, Ge(0)]``."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import (
    Annotated,
    Any,
    Literal,
    ParamSpec,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Gt, Le, Lt, MinLen, MultipleOf

from mxmclr_plugin.errors import ConfigError

CallP = ParamSpec("CallP")
ResultT = TypeVar("ResultT")

Count: TypeAlias = Annotated[int, Ge(1), Le(2**31 - 1)]
"""A whole number of 1 or more."""

Positive: TypeAlias = Annotated[float, Gt(0)]
"""A number above 0."""

Share: TypeAlias = Annotated[float, Ge(0), Le(1)]
"""A number from 0 to 1."""

Seed: TypeAlias = Annotated[int, Ge(0), Le(2**32 - 1)]
"""A seed of every generator in use; numpy's has 32 bits."""

_LIMITS: dict[type, tuple[str, Callable[[Any, Any], bool], str]] = {
    Ge: ("ge", operator.ge, "{} or more"),
    Gt: ("gt", operator.gt, "above {}"),
    Le: ("le", operator.le, "{} or less"),
    Lt: ("lt", operator.lt, "below {}"),
}


@dataclass(frozen=True)
class OneOf:
    """The values that a value can have; in a configuration, as OmegaConf knows no ``Literal``."""

    choices: tuple[Any, ...]


def within_bounds(function: Callable[CallP, ResultT]) -> Callable[CallP, ResultT]:
    """Decorator that checks each argument of a call against the bounds in its type.

    Raises:
        ConfigError: In the call, if an argument is out of range; the message starts with its name.
    """
    signature = inspect.signature(function)
    # At the first call: a type may stand below its use.
    hints = functools.cache(lambda: get_type_hints(function, include_extras=True))

    @functools.wraps(function)
    def checked(*args: CallP.args, **kwargs: CallP.kwargs) -> ResultT:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            check_value(hints().get(name, Any), value, name)
        return function(*args, **kwargs)

    return checked


def check_bounds(record: Any, prefix: str = "") -> None:
    """Check every value of a dataclass against the bounds in its type, also nested ones.

    Args:
        record: The dataclass.
        prefix: Beginning of its keys, for messages.

    Raises:
        ConfigError: If a value is out of range or not finite; the message starts with its key.
    """
    hints = get_type_hints(type(record), include_extras=True)
    for entry in fields(record):
        check_value(hints[entry.name], getattr(record, entry.name), prefix + entry.name)


def check_value(hint: Any, value: Any, key: str) -> None:
    """Check a value against the bounds in a type; ``Le(inf)`` among them allows infinity.

    Raises:
        ConfigError: If it is out of range or not finite; the message starts with the key.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if is_dataclass(value):
        check_bounds(value, f"{key}.")
    elif hint is Any or (Le(math.inf) in parts and value == math.inf):
        return
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key} must be a finite number, got {value}")
    elif origin in (Annotated, Literal):
        for bound in parts[1:] if origin is Annotated else (OneOf(parts),):
            if needed := _broken(bound, value):
                shown = repr(value) if isinstance(value, str) else value
                raise ConfigError(f"{key} must be {needed}, got {shown}")
        if origin is Annotated:
            check_value(parts[0], value, key)
    elif origin in (Union, types.UnionType):
        if value is not None:
            for part in parts:
                check_value(part, value, key)
    elif origin is list and isinstance(value, list):
        for item in value:
            check_value(parts[0], item, key)
    elif origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{key} must be keys and values, got {value!r}")
        for name, item in value.items():
            check_value(parts[1], item, f"{key}.{name}")


def choices_of(hint: Any) -> tuple[Any, ...]:
    """The values that a type lists, without None; empty if it lists none."""
    return next((of for of in _listed(hint) if of), ())


def _listed(hint: Any) -> Iterator[tuple[Any, ...]]:
    if isinstance(hint, OneOf):
        yield hint.choices
    elif get_origin(hint) is Literal:
        yield tuple(value for value in get_args(hint) if value is not None)
    else:
        for part in get_args(hint):
            yield from _listed(part)


def _broken(bound: Any, value: Any) -> str | None:
    """What a value must be if a bound does not hold, else None."""
    if isinstance(bound, OneOf):
        *first, last = ("null" if choice is None else str(choice) for choice in bound.choices)
        known = f"{', '.join(first)} or {last}" if first else last
        return None if value in bound.choices else known
    if isinstance(bound, MinLen):
        return None if len(value) >= bound.min_length else f"at least {bound.min_length} long"
    if isinstance(bound, MultipleOf):
        return None if value % bound.multiple_of == 0 else f"a multiple of {bound.multiple_of}"
    if type(bound) in _LIMITS and isinstance(value, int | float):
        name, holds, words = _LIMITS[type(bound)]
        limit = getattr(bound, name)
        return None if holds(value, limit) else words.format(limit)
    return None
