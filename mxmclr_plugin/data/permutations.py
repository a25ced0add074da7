"""Random permutations that follow from counters, one at a time or many small ones at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mxmclr_plugin.data.members import Members

_Words = npt.NDArray[np.uint64]

# Philox 4x64 with 10 rounds: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
_ROUNDS = 10
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_LOW, _HALF = np.uint64(2**32 - 1), np.uint64(32)


class Permutations:
    """Random permutations, each a function of a seed and the numbers it is called with.

    Each sorts numbers of Philox, whose raw output, other than numpy's permutation, is promised
    to stay as it is.

    Args:
        seed: From 0 to 2**64 - 1.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def one(self, number: int, n: int) -> npt.NDArray[np.int64]:
        """The permutation ``number`` of 0, ..., n - 1. Shape: (n,)."""
        philox = np.random.Philox(key=np.array([self._seed, 0], dtype=np.uint64))
        state: Any = philox.state
        state["state"]["counter"][2] = number
        philox.state = state
        return np.asarray(philox.random_raw(n)).argsort(kind="stable")

    def many(
        self,
        stream: int,
        first: npt.NDArray[np.int64],
        second: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
    ) -> Members:
        """A permutation for each pair of numbers, of 0, ..., size - 1.

        Args:
            stream: A number other than 0, in whose stream permutations do not depend on those of
                another one.
            first: A number for each. Shape: (permutations,).
            second: A further number for each, 0 or more. Shape: (permutations,).
            sizes: Their sizes. Shape: (permutations,).
        """
        of = Members.of_sizes(sizes)
        owners = np.repeat(np.arange(len(sizes)), sizes)
        # A counter gives four numbers; those of each permutation begin with counter 1.
        blocks = Members.of_sizes(-(-sizes // 4))
        of_block = np.repeat(np.arange(len(sizes)), blocks.folds)
        numbers = _philox(
            (self._seed, stream),
            blocks.rows - blocks.offsets[of_block] + 1,
            first[of_block],
            second[of_block],
        )
        values = numbers.ravel()[of.rows + (4 * blocks.offsets - of.offsets)[owners]]
        return Members(np.lexsort((values, owners)) - of.offsets[owners], of.offsets)


def _philox(
    key: tuple[int, int],
    low: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
) -> _Words:
    """What ``numpy.random.Philox`` gives at the counters (low, 0, first, second).

    NumPy's takes one counter a call; most of the time of small permutations would be calls.

    Returns:
        Four numbers for each counter. Shape: (counters, 4).
    """
    a, c, d = (words.astype(np.uint64) for words in (low, first, second))
    b = np.zeros_like(a)
    for number in range(_ROUNDS):
        k0, k1 = (
            np.uint64((of + number * step) % 2**64)
            for of, step in zip(key, _KEY_STEPS, strict=True)
        )
        high_a, low_a = _product(a, _MULTIPLIERS[0])
        high_c, low_c = _product(c, _MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ k0, low_c, high_a ^ d ^ k1, low_a
    return np.stack([a, b, c, d], axis=-1)


def _product(words: _Words, factor: int) -> tuple[_Words, _Words]:
    """Upper and lower 64 bits of the products with a number of 64 bits."""
    f_high, f_low = np.uint64(factor >> 32), np.uint64(factor % 2**32)
    high, low = words >> _HALF, words & _LOW
    middle = low * f_high + (low * f_low >> _HALF)
    other = high * f_low + (middle & _LOW)
    return high * f_high + (middle >> _HALF) + (other >> _HALF), words * np.uint64(factor)
