"""Names for things that a configuration file can ask for."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["Registry", "did_you_mean", "options"]


class _Entry(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def build(self) -> Callable[..., Any]: ...


EntryT = TypeVar("EntryT", bound=_Entry)


class Registry(Generic[EntryT]):
    """Entries by name, listed in the order in which they were registered.

    Args:
        kind: What an entry is, in the singular ("loss", "tower"), for messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, EntryT] = {}

    def register(self, entry: EntryT) -> EntryT:
        """Adds an entry.

        Raises:
            ValueError: If another entry already has that name.
        """
        if self._entries.get(entry.name, entry) != entry:
            raise ValueError(f"the {self.kind} {entry.name!r} is registered already")
        self._entries[entry.name] = entry
        return entry

    def build(self, spec: str | Mapping[str, Any], *args: Any) -> Any:
        """Calls an entry's ``build``.

        Args:
            spec: The name, or a mapping of ``name`` and the options of that entry.
            *args: What ``build`` takes before its options.

        Raises:
            ValueError: If the name or an option is unknown.
        """
        given = {"name": spec} if isinstance(spec, str) else dict(spec)
        if "name" not in given:
            raise ValueError(f"a {self.kind} needs a name, got only {sorted(map(str, given))}")
        entry = self[given.pop("name")]
        allowed = options(entry.build)
        for key in given:
            if key not in allowed:
                raise ValueError(
                    f"the {self.kind} {entry.name!r} has no option {key!r}: "
                    f"{did_you_mean(key, allowed)}its options are {', '.join(allowed) or 'none'}"
                )
        return entry.build(*args, **given)

    def __getitem__(self, name: str) -> EntryT:
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            raise ValueError(
                f"unknown {self.kind} {name!r}: "
                f"{did_you_mean(name, self._entries)}known are {', '.join(self._entries)}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[EntryT]:
        return iter(self._entries.values())


def options(build: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword parameters with a default of a callable: what a configuration may set."""
    return {
        name: parameter
        for name, parameter in inspect.signature(build).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """ "did you mean 'x'? " for names near ``name``, else an empty string."""
    near = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, near))}? " if near else ""
