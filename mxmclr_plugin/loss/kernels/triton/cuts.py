"""How each Triton kernel cuts the matrix."""

from __future__ import annotations

from typing import NamedTuple

ROOM = 64.0
"""Bound of log2 of a term up to which it is summed as it is.

Sums of 2^20 terms stay under 2^84, and weights over such a sum above 2^-110: both are float32's.
"""


class Cut(NamedTuple):
    """The tile of a program, and how the program is compiled.

    Attributes:
        rows: Rows of a tile.
        columns: Columns of a tile.
        inner: Columns of the features that are multiplied at once.
        warps: Warps of a program.
        stages: Loads that are under way at the same time.
    """

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int

    @property
    def constants(self) -> dict[str, int]:
        """The constants of a launch."""
        return {
            "BLOCK_M": self.rows,
            "BLOCK_N": self.columns,
            "BLOCK_K": self.inner,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


Cuts = dict[str, Cut]
"""The cut of each kernel, by its name; "running" ones keep maxima where logits have no bound."""

_HOPPER_16_BIT: Cuts = {
    "logsumexp": Cut(128, 128, 64, 4, 3),
    "running_logsumexp": Cut(128, 128, 64, 4, 3),
    "weights": Cut(128, 128, 64, 4, 3),
    "running_weights": Cut(64, 128, 64, 4, 4),
    "kept_weights": Cut(16, 256, 64, 4, 1),
}
_16_BIT: Cuts = {
    "logsumexp": Cut(64, 128, 32, 8, 3),
    "running_logsumexp": Cut(64, 128, 32, 8, 3),
    "weights": Cut(64, 128, 32, 8, 3),
    "running_weights": Cut(64, 128, 32, 8, 3),
    "kept_weights": Cut(64, 64, 32, 4, 1),
}
_HOPPER_32_BIT: Cuts = {
    "logsumexp": Cut(128, 128, 32, 4, 3),
    "running_logsumexp": Cut(128, 128, 32, 4, 3),
    "weights": Cut(128, 128, 32, 4, 3),
    "running_weights": Cut(64, 128, 32, 4, 4),
}
EXACT_CUTS: Cuts = dict.fromkeys(_HOPPER_32_BIT, Cut(128, 64, 16, 8, 2))
"""Cuts for products of exact float32, which no tensor core computes."""

INTERPRETED_CUTS: Cuts = dict.fromkeys(_16_BIT, Cut(32, 32, 16, 4, 1))


def default_cuts(itemsize: int, capability: int) -> Cuts:
    """Cuts for a kind of device that was not measured.

    Args:
        itemsize: Bytes of a number of the matrices that are multiplied: 2, or 4 for TF32.
        capability: First number of the compute capability. 9 and 10 have 227 kB of shared memory;
            the others' cuts fit 99 kB.
    """
    hopper = capability in (9, 10)
    if itemsize == 4:
        return _HOPPER_32_BIT if hopper else EXACT_CUTS
    return _HOPPER_16_BIT if hopper else _16_BIT
