"""Tile shapes of the Triton kernels by device, and how the fastest is chosen."""

from __future__ import annotations

import functools
from typing import Any

import triton

from mxmclr_plugin.loss.kernels.triton.kernels import (
    logsumexp_kernel,
    product_kernel,
    weights_kernel,
)

KERNELS = {
    "logsumexp": logsumexp_kernel,
    "weights": weights_kernel,
    "product": product_kernel,
}

_KEYS = {
    "logsumexp": ["width", "size_class", "PRECISION"],
    "weights": ["width", "size_class", "PRECISION"],
    "product": ["n", "size_class"],
}

# (BLOCK_M, BLOCK_N, BLOCK_K, warps, stages). The partial sums by column are laid out by strips of
# STRIP rows, so all cuts of "logsumexp" have that BLOCK_M.
_Cut = tuple[int, int, int, int, int]
_HOPPER_16_BIT: dict[str, list[_Cut]] = {
    "logsumexp": [(128, 128, 64, 8, 4), (128, 128, 64, 8, 3)],
    "weights": [(64, 256, 64, 8, 3), (128, 128, 64, 8, 3), (64, 128, 64, 4, 4)],
    "product": [(128, 256, 64, 8, 3), (128, 128, 64, 8, 4), (128, 128, 64, 8, 3)],
}
_16_BIT: dict[str, list[_Cut]] = {
    "logsumexp": [(128, 128, 32, 8, 3), (128, 64, 64, 4, 3)],
    "weights": [(128, 128, 32, 8, 3), (128, 64, 64, 4, 3)],
    "product": [(128, 128, 32, 8, 3), (128, 64, 64, 4, 3)],
}
_32_BIT: dict[str, list[_Cut]] = {
    "logsumexp": [(128, 64, 16, 8, 3), (128, 128, 16, 8, 2)],
    "weights": [(128, 64, 16, 8, 3), (128, 128, 16, 8, 2)],
}
_INTERPRETED = {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 16, "INTERPRETED": True}

_GROUP = 8


def strip(interpreted: bool) -> int:
    """Rows of a strip of "logsumexp"."""
    return _INTERPRETED["BLOCK_M"] if interpreted else 128


def configs(kernel: str, itemsize: int, hopper: bool) -> list[triton.Config]:
    """The cuts that are tried on a device.

    Args:
        kernel: One of :data:`KERNELS`.
        itemsize: Bytes of a number of the matrices that are multiplied, 2 or 4.
        hopper: Whether the device has the 228 kB of shared memory of compute capability 9 and 10;
            what is tried elsewhere fits the 100 kB of smaller cards.
    """
    sixteen = _HOPPER_16_BIT if hopper else _16_BIT
    found = []
    for rows, columns, inner, warps, stages in (_32_BIT if itemsize == 4 else sixteen)[kernel]:
        blocks = {"BLOCK_M": rows, "BLOCK_N": columns, "BLOCK_K": inner, "INTERPRETED": False}
        if kernel == "weights":
            blocks["GROUP"] = _GROUP
        found.append(triton.Config(blocks, num_warps=warps, num_stages=stages))
    return found


@functools.cache
def tuned(kernel: str, itemsize: int, hopper: bool, interpreted: bool) -> Any:
    """A kernel that takes its fastest cut, found at the first call for a width and size.

    Triton's interpreter has no device to try cuts on: one is filled in.
    """
    inner = "k" if kernel == "product" else "width"
    even = {"EVEN_K": lambda args: args[inner] % args["BLOCK_K"] == 0}
    if interpreted:
        blocks = _INTERPRETED | ({"GROUP": _GROUP} if kernel == "weights" else {})
        constants = {name: functools.partial(_same, value) for name, value in blocks.items()}
        return triton.heuristics(constants | even)(KERNELS[kernel])
    tune = triton.autotune(
        configs(kernel, itemsize, hopper),
        key=_KEYS[kernel],
        # Trial runs must not add to the result.
        restore_value=["out"] if kernel == "product" else None,
    )
    return tune(triton.heuristics(even)(KERNELS[kernel]))


def _same(value: int, _: object) -> int:
    return value
