"""Dataclasses as JSON files, written and read by the names and types of their fields."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from mxmclr_plugin.errors import ConfigError

RecordT = TypeVar("RecordT")


def plain(record: Any) -> Any:
    """A record as containers of JSON; fields that are None by default and still None are left out.

    Args:
        record: A dataclass, or containers of such.
    """
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {
            field.name: plain(value)
            for field in dataclasses.fields(record)
            if (value := getattr(record, field.name)) is not None or field.default is not None
        }
    if isinstance(record, Mapping):
        return {str(key): plain(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [plain(value) for value in record]
    # JSON has no infinity; as an option (soft_temperature) it is written as on the command line.
    return str(record) if isinstance(record, float) and math.isinf(record) else record


def json_text(record: Any) -> str:
    """The text of a record's file."""
    return json.dumps(plain(record), indent=1, allow_nan=False) + "\n"


def read_record(kind: type[RecordT], file: Path) -> RecordT:
    """Read a record.

    Keys that the dataclass does not have are ignored.

    Args:
        kind: A dataclass.
        file: Its file.

    Raises:
        ConfigError: If the file cannot be read, is not JSON, or a key is missing or of another
            type; the message names file and key.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}, line {error.lineno}, is no JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    try:
        record: RecordT = _read(kind, value, "")
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error
    return record


def read_whole_record(kind: type[RecordT], file: Path) -> RecordT | None:
    """As :func:`read_record`; None if the file is missing or damaged, so that it is made anew."""
    try:
        return read_record(kind, file) if file.is_file() else None
    except ConfigError:
        return None


_SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "a string"),
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
}


def _read(kind: Any, value: Any, at: str) -> Any:
    """A value as its type; ``at`` is its place, such as ``runs[3].seed``."""
    if kind is Any:
        return value
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (other for other in get_args(kind) if other is not types.NoneType)
        return None if value is None else _read(kind, value, at)
    if kind in _SCALARS:
        allowed, name = _SCALARS[kind]
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise _wrong(value, name, at)
        if isinstance(value, float) and not math.isfinite(value):
            raise _wrong(value, "a finite number", at)
        return kind(value)
    if get_origin(kind) is list:
        if not isinstance(value, list):
            raise _wrong(value, "a list", at)
        (inner,) = get_args(kind)
        return [_read(inner, entry, f"{at}[{k}]") for k, entry in enumerate(value)]
    if not isinstance(value, dict):
        raise _wrong(value, "an object", at)
    prefix = f"{at}." if at else ""
    if get_origin(kind) is dict:
        key_kind, inner = get_args(kind)
        return {key_kind(key): _read(inner, of, f"{prefix}{key}") for key, of in value.items()}
    hints = get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            found[field.name] = _read(hints[field.name], value[field.name], prefix + field.name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{prefix}{field.name} is missing")
    return kind(**found)


def _wrong(value: Any, wanted: str, at: str) -> ValueError:
    shown = json.dumps(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return ValueError(f"{at or 'all of it'} must be {wanted}, got {shown}")
