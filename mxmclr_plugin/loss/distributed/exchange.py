"""What processes send each other for the sharded loss, and a count of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch import distributed as torch_dist

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Dtypes of the rows that can be exchanged."""

Exchange = Literal["all_gather", "ring"]

# PyTorch renamed it and warns of the old name.
_all_gather_single: Any = getattr(
    torch_dist, "all_gather_single", getattr(torch_dist, "all_gather_into_tensor", None)
)


@dataclass
class Sent:
    """What this rank has sent.

    Point to point it is what was handed to ``isend``. Of the two collectives it is what their ring
    algorithms send, which is the least that they can: (W - 1) blocks for an all_gather of W blocks,
    padded to one length, and 2 (W - 1) / W of the tensor for an all_reduce.

    Attributes:
        elements: Number of elements by purpose.
        bytes: The same in bytes.
    """

    elements: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)


# Not by thread: a backward pass on a GPU runs in a thread of its own.
_counts: list[Sent] = []


@contextmanager
def count_sent() -> Iterator[Sent]:
    """Counts what this process sends for sharded losses within the context."""
    sent = Sent()
    _counts.append(sent)
    try:
        yield sent
    finally:
        _counts.remove(sent)


def _count(purpose: str, tensor: Tensor, times: float = 1) -> None:
    for sent in _counts:
        elements = round(tensor.numel() * times)
        sent.elements[purpose] += elements
        sent.bytes[purpose] += elements * tensor.element_size()


@dataclass(frozen=True)
class Transfer:
    """A transfer under way; tensors that take part must be left alone until it has been waited for.

    Attributes:
        works: What to wait for; emptied then, as it holds what was sent.
        received: What will have been received.
    """

    works: list[Any]
    received: Sequence[Tensor]

    def wait(self) -> Sequence[Tensor]:
        """Waits and returns what was received."""
        for _, work in self.works:
            work.wait()
        self.works.clear()
        return self.received


class Ranks:
    """This process among those of the default process group.

    Every method must be called by all ranks together and in the same order.

    Attributes:
        size: Number of ranks.
        rank: Number of this one.
    """

    def __init__(self) -> None:
        several = torch_dist.is_available() and torch_dist.is_initialized()
        self.size: int = torch_dist.get_world_size() if several else 1
        self.rank: int = torch_dist.get_rank() if several else 0

    def all_reduce(self, x: Tensor, purpose: str, op: Any = None) -> Tensor:
        """Sum over ranks, or what ``op`` says, in place."""
        if self.size == 1:
            return x
        _count(purpose, x, 2 * (self.size - 1) / self.size)
        torch_dist.all_reduce(x, torch_dist.ReduceOp.SUM if op is None else op)
        return x

    def logsumexp(self, x: Tensor, purpose: str) -> Tensor:
        """Logsumexp over ranks, element by element; -inf where all are."""
        greatest = self.all_reduce(x.clone(), purpose, torch_dist.ReduceOp.MAX)
        greatest.masked_fill_(greatest == -torch.inf, 0.0)
        total = self.all_reduce((x - greatest).exp_(), purpose)
        return total.log_().add_(greatest)

    def all_gather(self, x: Tensor, counts: Sequence[int], purpose: str) -> Transfer:
        """Starts to gather the rows of all ranks.

        Args:
            x: Rows of this rank. Shape: (rows, ...).
            counts: Number of rows of each rank.
            purpose: What the count of elements is kept under.

        Returns:
            A transfer of the rows of each rank, in the order of ranks.
        """
        longest = max(counts)
        if longest == 0:
            return Transfer([], [x] * self.size)
        mine = x.contiguous()
        if len(x) < longest:
            mine = torch.cat((mine, x.new_zeros(longest - len(x), *x.shape[1:])))
        everything = x.new_empty(self.size * longest, *x.shape[1:])
        _count(purpose, mine, self.size - 1)
        work = _all_gather_single(everything, mine, async_op=True)
        blocks = everything.split(longest)
        return Transfer(
            [(mine, work)], [block[:n] for block, n in zip(blocks, counts, strict=True)]
        )

    def shift(self, step: int, out: Tensor, into: Tensor, purpose: str) -> Transfer:
        """Starts to send a tensor ``step`` ranks on, and to receive one from as far behind."""
        to, source = (self.rank + step) % self.size, (self.rank - step) % self.size
        return self._transfer({to: out}, {source: into}, purpose)

    def swap(self, out: Sequence[Tensor], counts: Sequence[int], purpose: str) -> Sequence[Tensor]:
        """Sends ``out[q]`` to each other rank q, and returns ``counts[q]`` rows from each."""
        into = [out[q].new_empty(n, *out[q].shape[1:]) for q, n in enumerate(counts)]
        others = [q for q in range(self.size) if q != self.rank]
        self._transfer({q: out[q] for q in others}, {q: into[q] for q in others}, purpose).wait()
        return into

    def _transfer(self, out: dict[int, Tensor], into: dict[int, Tensor], purpose: str) -> Transfer:
        operations = []
        for rank, x in out.items():
            if x.numel():
                _count(purpose, x)
                operations.append(torch_dist.P2POp(torch_dist.isend, x.contiguous(), rank))
        for rank, x in into.items():
            if x.numel():
                operations.append(torch_dist.P2POp(torch_dist.irecv, x, rank))
        works = torch_dist.batch_isend_irecv(operations) if operations else []
        return Transfer([(operations, work) for work in works], list(into.values()))


def exchange_shapes(
    ranks: Ranks, matrices: Mapping[str, Tensor | None]
) -> tuple[list[list[int]], list[bool]]:
    """Checks that the matrices of ranks fit together.

    Args:
        ranks: The processes.
        matrices: This rank's, by their names; the first is there on every rank.

    Returns:
        Rows of each matrix by rank, and whether those of any rank need a gradient.

    Raises:
        ValueError: If widths or dtypes differ.
    """
    mine = [
        (-1, -1, -1, 0)
        if x is None
        else (len(x), x.shape[1], DTYPES.index(x.dtype), int(x.requires_grad))
        for x in matrices.values()
    ]
    device = next(x.device for x in matrices.values() if x is not None)
    table = ranks.all_gather(
        torch.tensor([mine], device=device), [1] * ranks.size, "agreement"
    ).wait()
    counts, widths, dtypes, needed = torch.cat(list(table)).permute(2, 1, 0).tolist()
    for k, name in enumerate(matrices):
        for what, values in (
            ("widths", [w if w >= 0 else None for w in widths[k]]),
            ("dtypes", [DTYPES[dtype] if dtype >= 0 else None for dtype in dtypes[k]]),
        ):
            if len(set(values)) > 1:
                raise ValueError(
                    f"{name} is of different {what} on different ranks, in their order: "
                    f"{', '.join(map(str, values))}; on a rank without rows give "
                    "torch.empty(0, D) of the dtype of the others"
                )
    return counts, [any(flags) for flags in needed]


def joined(rows: Tensor, needed: bool) -> Tensor:
    """Rows whose backward pass takes part in that of the others.

    That waits for all ranks: one with no row, and so with no graph, must take part in it too.
    """
    if needed and not rows.requires_grad and torch.is_grad_enabled():
        return rows.detach().requires_grad_()
    return rows
