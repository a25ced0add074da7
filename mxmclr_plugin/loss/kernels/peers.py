"""The processes that share a loss: here the one that has all rows, and so exchanges nothing.

``distributed`` has those of several processes, each of which has its own rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


class Holders:
    """Which instances of a side this process has rows of (held), and which it adds up (owned).

    Every instance of the side is owned by one process. Here one process holds and owns all.
    """

    held: Tensor | slice = slice(None)
    owned: Tensor | slice = slice(None)

    def place(self, index: Tensor) -> Tensor:
        """Place among the held instances of each group index of a row of this process."""
        return index

    def total(self, sums: Tensor) -> Tensor:
        """Sums over all processes. Shape: (held, width) to (owned, width)."""
        return sums

    def distribute(self, rows: Tensor) -> Tensor:
        """Rows for all that hold the instances. Shape: (owned, width) to (held, width)."""
        return rows

    def known_to_all(self, rows: Tensor) -> Tensor:
        """Rows of all owners. Shape: (owned, width) to (N, width)."""
        return rows


class Peers:
    """This process among those that compute a loss together.

    Attributes:
        size: Number of processes.
        rank: Number of this one.
        holders0: Who holds and owns the instances of side 0.
    """

    size: int = 1
    rank: int = 0
    holders0 = Holders()

    def columns(self, z1: Tensor, kept: dict[int, Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Rank and columns of each process, this one's first; ``kept`` may hold some later."""
        yield 0, z1

    def columns_again(self, z1: Tensor, kept: dict[int, Tensor]) -> Iterator[tuple[int, Tensor]]:
        """The same for the backward pass, this one's last."""
        yield 0, z1

    def pass_on(self, rank: int, gradient: Tensor, arriving: Any) -> tuple[Tensor, Any]:
        """Sends the gradient of a process's columns on its way home; called block by block.

        Returns:
            The gradient of this process's columns after the last block, and what is on its way.
        """
        return gradient, None

    def sum(self, x: Tensor) -> Tensor:
        """Sum over processes."""
        return x

    def span(self, groups: int) -> slice:
        """Instances of which this process makes the rows of the relation."""
        return slice(0, groups)

    def joined(self, rows: Tensor, groups: int) -> Tensor:
        """Rows of the spans of all processes. Shape: (span, width) to (groups, width)."""
        return rows

    def logsumexp(self, x: Tensor) -> Tensor:
        """Logsumexp over processes, element by element; -inf where all are."""
        return x

    def places1(self, groups: int, *, all_groups: bool) -> tuple[Tensor | None, int]:
        """Place of each instance in a table of the sums of columns, and the number of places.

        With ``all_groups`` the table has all instances. Otherwise it has those held of side 0, and
        one place for all others. None stands for the identity.
        """
        return None, groups


ALONE = Peers()
"""One process that has all rows."""
