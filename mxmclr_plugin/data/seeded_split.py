"""A split by chance, the same with every version of numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["seeded_order"]


def seeded_order(n: int, seed: int) -> npt.NDArray[np.int64]:
    """A random order of n things, whose beginning can be held out.

    Philox and RandomState are what numpy promises to draw the same numbers in all versions.

    Args:
        n: How many there are.
        seed: What the order follows from, 0 or more.

    Returns:
        The numbers 0 to n - 1. Shape: (n,), int64.

    Raises:
        ValueError: If the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    generator = np.random.RandomState(np.random.Philox(np.random.SeedSequence(seed)))
    return generator.permutation(n).astype(np.int64)
