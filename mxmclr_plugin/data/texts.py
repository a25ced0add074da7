"""Texts in one block of memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import overload


class Texts(Sequence[str]):
    """A sequence of texts that takes their bytes and 8 bytes each, so that millions fit in memory.

    A list of as many strings takes some 57 bytes each beyond their characters.

    Args:
        texts: The texts.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._content = bytearray()
        self._offsets = array("q", [0])
        for text in texts:
            self._content += text.encode()
            self._offsets.append(len(self._content))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        k = range(len(self))[index] if index < 0 else index
        return self._content[self._offsets[k] : self._offsets[k + 1]].decode()
