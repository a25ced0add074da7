"""A queue of past observations that remembers whose they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EMPTY, _GIVEN, _NUMBERED = 0, 1, 2


class ObservationQueue(nn.Module):
    """lightly's memory bank with an instance id beside every entry.

    Differs from a bare ``MemoryBankModule`` in three ways: its random start values are never
    given out, ids are kept, and it is part of the state dict, so that a resumed run goes on with
    the queue that it had.

    Attributes:
        size:
            (entries, dim), as in lightly.

    Raises:
        ValueError: If ``size`` is not of the form (entries, dim).
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        from lightly.models.modules.memory_bank import MemoryBankModule  # takes seconds to import

        super().__init__()
        if isinstance(size, int) or len(size) != 2 or not all(number > 0 for number in size):
            raise ValueError(f"memory bank size must be (entries, dim), got {size}")
        self.rows = MemoryBankModule(size, feature_dim_first=False)
        self.size: tuple[int, ...] = self.rows.size
        # Two whole numbers an entry: its id, and whether it is empty, or where its id is from.
        self.labels = MemoryBankModule((self.size[0], 2), feature_dim_first=False)
        self.labels.bank = torch.full_like(self.labels.bank, _EMPTY, dtype=torch.int64)
        for bank in (self.rows, self.labels):
            for name, buffer in list(bank.named_buffers()):
                bank.register_buffer(name, buffer, persistent=True)

    def reset_parameters(self) -> None:
        """Empties the queue, also after ``to_empty``, which leaves it as memory happens to be."""
        for bank in (self.rows, self.labels):
            nn.init.zeros_(bank.bank)
            nn.init.zeros_(bank.bank_ptr)
        self.labels.bank.fill_(_EMPTY)

    def entries(self) -> tuple[Tensor, Tensor]:
        """Rows and ids held now. Shape: (held, D), (held,)."""
        held = self.labels.bank[:, 1] != _EMPTY
        return self.rows.bank[held], self.labels.bank[held, 0]

    def check_origin(self, ids_given: bool) -> None:
        """Checks that ids of the batch can be compared with those held.

        Args:
            ids_given: Whether the ids of the batch come from the caller.

        Raises:
            ValueError: If what is held was given ids by the caller and the batch not, or the
                other way round.
        """
        other = _NUMBERED if ids_given else _GIVEN
        if (self.labels.bank[:, 1] == other).any():
            raise ValueError(
                f"this batch comes {'with' if ids_given else 'without'} ids, but the memory bank "
                f"holds observations that came {'without' if ids_given else 'with'}: whether they "
                "are of the same instances cannot be known; give ids in every call or in none"
            )

    def next_id(self) -> Tensor:
        """The first of the ids that no entry has. Shape: ()."""
        return torch.where(self.labels.bank[:, 1] != _EMPTY, self.labels.bank[:, 0] + 1, 0).max()

    def add(self, z: Tensor, ids: Tensor, ids_given: bool) -> None:
        """Replaces the oldest entries.

        Args:
            z: Embeddings, normalised here. Shape: (rows, D).
            ids: Instance ids. Shape: (rows,).
            ids_given: Whether the ids come from the caller.
        """
        origin = torch.full_like(ids, _GIVEN if ids_given else _NUMBERED)
        self.rows(F.normalize(z.detach().to(self.rows.bank.dtype), dim=1), update=True)
        self.labels(torch.stack((ids, origin), dim=1), update=True)
