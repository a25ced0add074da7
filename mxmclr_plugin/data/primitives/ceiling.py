"""What retrieval can reach at best where a sentence fits several classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mxmclr_plugin.data.primitives.classes import PrimitiveClass
from mxmclr_plugin.data.primitives.partial_captions import attribute_sets

__all__ = ["retrieval_ceiling"]


def retrieval_ceiling(kinds: Sequence[PrimitiveClass], described: int) -> tuple[float, float]:
    """Expected R@1, in percent, of a reader who knows the class of each grid and what words mean.

    A sentence that fits m classes is of each of them with equal probability, so the first grid is
    right with probability 1 / m. For a grid, the reader takes first a sentence that fits as few
    classes as any that fits this one. The second figure is for as many sentences a class as there
    are sets of attributes, or more; with fewer it is not reached.

    Args:
        kinds: Classes in the gallery, each with equally many grids, and equally many sentences of
            each set of attributes.
        described: Attributes that a sentence names, 1 to 3.

    Returns:
        Text to shape, where sentences are ranked against grids, and shape to text.
    """
    said = [
        [tuple(getattr(kind, name) for name in named) for kind in kinds]
        for named in attribute_sets(described)
    ]
    fitting = [Counter(of_set) for of_set in said]
    right = np.array(
        [
            [1 / count[values] for values in of_set]
            for count, of_set in zip(fitting, said, strict=True)
        ]
    )  # (sets, classes)
    return 100 * float(right.mean()), 100 * float(right.max(axis=0).mean())
