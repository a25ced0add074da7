"""Queries divided among processes, and sums over all of them."""

from __future__ import annotations

import torch.distributed
from torch import Tensor


def own_rows(rows: int, distributed: bool) -> slice:
    """The rows of this process of the default group; shares differ by one row at most.

    Args:
        rows: Number of rows.
        distributed: Whether processes divide the rows; if not, they are all this one's.
    """
    if not distributed:
        return slice(0, rows)
    size, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    return slice(rows * rank // size, rows * (rank + 1) // size)


def sum_of_processes(sums: Tensor, distributed: bool) -> Tensor:
    """The sums over the processes of the default group, in place. Shape: that of ``sums``."""
    if distributed:
        torch.distributed.all_reduce(sums)
    return sums
