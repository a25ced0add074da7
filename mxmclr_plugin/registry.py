"""Names for things that a configuration file can ask for."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

__all__ = ["Registry"]


class _Entry(Protocol):
    @property
    def name(self) -> str: ...


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

    def __getitem__(self, name: str) -> EntryT:
        try:
            return self._entries[name]
        except KeyError:
            raise ValueError(self._unknown(name)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[EntryT]:
        return iter(self._entries.values())

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(str(name), self._entries, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        return f"unknown {self.kind} {name!r}: {hint}known are {', '.join(self._entries)}"


