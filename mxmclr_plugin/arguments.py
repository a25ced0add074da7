"""Command line arguments, ``key=value``, read into a dataclass.

The fields of the dataclass give keys, types and defaults, and its docstring the help.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mxmclr_plugin.bounds import check_bounds, choices_of
from mxmclr_plugin.errors import ConfigError, first_line
from mxmclr_plugin.files import expanded
from mxmclr_plugin.registry import check_known, did_you_mean, documented

ArgumentsT = TypeVar("ArgumentsT")


WORD: Mapping[str, bool] = {"word": True}
"""Metadata of a field that is given by its place, without ``key=``."""

_KEY = re.compile(r"(?P<prefix>\+{0,2})(?P<first>[A-Za-z_]\w*)[\w./@:-]*=")
_DELETED = re.compile(r"(?P<prefix>~)(?P<first>[A-Za-z_]\w*)[\w./@:-]*(=|$)")
_UNIONS = (Union, types.UnionType)
_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}


def parse_arguments(
    command: str,
    kind: type[ArgumentsT],
    arguments: Sequence[str],
    others: Collection[str] | None = (),
    instead: Mapping[str, str] | None = None,
) -> tuple[ArgumentsT, list[str]]:
    """Reads the arguments of a command.

    Values of text and path keys are taken as typed. A word with ``=`` is no ``key=value`` if there
    is no such key, if it is an existing path, or if it follows ``--``. Lists are written with
    commas, with or without brackets: ``seeds=0,1,2``. Nested keys are written with dots:
    ``grid.lr=1,2``.

    Args:
        command: Name of the command, for messages.
        kind: Dataclass of the command's arguments.
        arguments: What follows the name of the command.
        others: First parts of further keys, which are returned as they are; None for all keys.
        instead: Keys that are refused, with what to write instead.

    Returns:
        The dataclass, and the arguments with further keys.

    Raises:
        ConfigError: If a key is unknown or missing, or a value has the wrong type or is out of
            range.
    """
    entries = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    words = [name for name, entry in entries.items() if entry.metadata.get("word")]
    keys = [name for name in entries if name not in words]
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    placed: list[str] = []
    further: list[str] = []
    for argument in _in_order(arguments, placed):
        match = _KEY.match(argument) or _DELETED.match(argument)
        if match is None or (len(placed) < len(words) and _exists(argument)):
            placed.append(argument)
            continue
        key, _, text = argument.partition("=")
        first = match["first"]
        if instead and key in instead:
            raise ConfigError(f"{command} sets {key} itself: {instead[key]}")
        if first in keys and not match["prefix"]:
            _assign(values, key.split("."), hints[first], key, text)
        elif others is None or first in others:
            further.append(argument)
        elif len(placed) < len(words):  # a path or text with "="
            placed.append(argument)
        else:
            known = [*keys, *sorted(others)]
            listed = f"its keys are {', '.join(keys)}" if keys else "it has no keys"
            if others:
                listed += f", and {', '.join(sorted(others))} of the run's configuration"
            raise ConfigError(f"{command} has no key {key!r}: {did_you_mean(first, known)}{listed}")
    if len(placed) > len(words):
        more = " ".join(map(repr, placed[len(words) :]))
        takes = "".join(f"{name.upper()} and " for name in words) + "key=value alone"
        raise ConfigError(f"{command} takes {takes}, got {more}")
    for name, text in zip(words, placed, strict=False):
        values[name] = convert(hints[name], f"{command}: {name.upper()}", text)
    help_words = documented(inspect.getdoc(kind) or "")
    for name, entry in entries.items():
        if _is_required(entry) and name not in values:
            shown = name.upper() if name in words else f"{name}={name.upper()}"
            raise ConfigError(f"{command} needs {shown}: {help_words.get(name, '')}")
    made = _made(kind, values)
    check_bounds(made)
    return made, further


def _in_order(arguments: Sequence[str], placed: list[str]) -> list[str]:
    """Arguments, those without ``key=`` first; what follows ``--`` is added to ``placed``."""
    arguments = list(arguments)
    if "--" in arguments:
        place = arguments.index("--")
        placed += arguments[place + 1 :]
        arguments = arguments[:place]
    is_key = [bool(_KEY.match(argument) or _DELETED.match(argument)) for argument in arguments]
    return [arguments[k] for k in sorted(range(len(arguments)), key=is_key.__getitem__)]


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # too long for a name
        return False


def convert(hint: Any, key: str, text: str) -> Any:
    """The value that a text stands for.

    Args:
        hint: Type of the value.
        key: Key, for messages.
        text: Text as typed; ``null`` is None where the type allows it.

    Raises:
        ConfigError: If the text is no value of the type.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return convert(parts[0], key, text)
    if origin in _UNIONS and type(None) in parts:
        rest = [part for part in parts if part is not type(None)]
        if text == "null":
            return None
        if len(rest) > 1:
            return text if is_text(hint) else _read(key, text)
        return convert(rest[0], key, text)
    if hint is str:
        return text
    if hint is Path:
        return expanded(text)
    if origin is Literal:
        by_text = {"null" if choice is None else str(choice): choice for choice in parts}
        check_known(f"{key} cannot be", text, by_text)
        return by_text[text]
    if origin is list:
        inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        return [convert(parts[0], key, part) for part in _items(inner)]
    if hint in _WORDS:
        try:
            return {"true": True, "false": False}[text.lower()] if hint is bool else hint(text)
        except (KeyError, ValueError):
            raise ConfigError(f"{key} must be {_WORDS[hint]}, got {text!r}") from None
    return _read(key, text)


def _items(text: str) -> list[str]:
    """The items of a list: what commas outside brackets separate."""
    items, depth = [""], 0
    for character in text:
        depth += (character in "[{(") - (character in ")}]")
        if character == "," and depth == 0:
            items.append("")
        else:
            items[-1] += character
    return [item.strip() for item in items if item.strip()]


def is_text(hint: Any) -> bool:
    """Whether values of a type are taken as typed."""
    parts = get_args(hint) if get_origin(hint) in _UNIONS else (hint,)
    return set(parts) - {type(None)} <= {str, Path}


def usage(command: str, kind: type[Any]) -> str:
    """One line that shows how a command is called."""
    parts = ["mxmclr", command]
    for entry in fields(kind):
        if entry.metadata.get("word"):
            parts.append(entry.name.upper())
        elif _is_required(entry):
            parts.append(f"{entry.name}={entry.name.upper()}")
    return " ".join([*parts, "[key=value ...]"])


def help_rows(kind: type[Any], prefix: str = "") -> list[tuple[str, str, str]]:
    """Key with its default, choices, and help of every argument of a dataclass."""
    hints = get_type_hints(kind, include_extras=True)
    words = documented(inspect.getdoc(kind) or "")
    rows: list[tuple[str, str, str]] = []
    for entry in fields(kind):
        name, hint = f"{prefix}{entry.name}", hints[entry.name]
        if is_dataclass(hint):
            rows += help_rows(hint, f"{name}.")  # type: ignore[arg-type]
            continue
        if entry.metadata.get("word"):
            shown = entry.name.upper()
        else:
            shown = f"{name}={'' if _is_required(entry) else written(_default(entry))}"
        choices = ", ".join(map(str, choices_of(hint)))
        rows.append((shown, choices, words.get(entry.name, "")))
    return rows


def written(value: Any, brackets: bool = False) -> str:
    """A value as it is written after ``key=``.

    Args:
        value: Value.
        brackets: Whether a list has brackets, as Hydra needs them.
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, (list, tuple)):
        parts = ",".join(written(part, True) for part in value)
        return f"[{parts}]" if brackets else parts
    if isinstance(value, Mapping):
        parts = ",".join(f"{key}:{written(part, True)}" for key, part in value.items())
        return f"{{{parts}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _assign(values: dict[str, Any], path: Sequence[str], hint: Any, key: str, text: str) -> None:
    """Sets a value that may be nested in dataclasses and mappings."""
    name, *rest = path
    if not rest:
        if is_dataclass(hint):
            inner = ", ".join(f"{key}.{entry.name}" for entry in fields(hint))
            raise ConfigError(f"{key} has keys of its own: {inner}")
        values[name] = convert(hint, key, text)
        return
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        if rest[0] not in hints:
            raise ConfigError(
                f"unknown key {key!r}: {did_you_mean(rest[0], hints)}there are {', '.join(hints)}"
            )
        inner_hint = hints[rest[0]]
    elif get_origin(hint) is dict:
        inner_hint = get_args(hint)[1]
    elif hint is Any:
        inner_hint = Any
    else:
        raise ConfigError(f"unknown key {key!r}: {name} has no keys of its own")
    _assign(values.setdefault(name, {}), rest, inner_hint, key, text)


def _made(kind: type[ArgumentsT], values: Mapping[str, Any]) -> ArgumentsT:
    hints = get_type_hints(kind)
    return kind(
        **{
            name: _made(hints[name], value) if is_dataclass(hints[name]) else value  # type: ignore[type-var]
            for name, value in values.items()
        }
    )


def _read(key: str, text: str) -> Any:
    """A value of any type, as YAML."""
    try:
        node = OmegaConf.from_dotlist([f"value={text}"])
        return OmegaConf.to_container(node)["value"]  # type: ignore[index, call-overload]
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{key}: cannot read {text!r}: {first_line(error)}") from error


def _is_required(entry: Field[Any]) -> bool:
    return entry.default is MISSING and entry.default_factory is MISSING


def _default(entry: Field[Any]) -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()
