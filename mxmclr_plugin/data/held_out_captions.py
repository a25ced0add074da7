"""Captions that are not ranked, but tell which instances are alike."""

from __future__ import annotations

import re
from collections import Counter

from mxmclr_plugin.data.dataset import MultifoldDataset

_COMMON = 0.1
"""Words of a larger share of the instances tell nothing."""


def hold_out_captions(dataset: MultifoldDataset, modality: str, number: int) -> MultifoldDataset:
    """The data set without the last captions of each instance, their words as its attribute.

    An instance keeps one caption at least. Words are in lower case; those of more than a tenth of
    the instances are left out.

    Args:
        dataset: The data.
        modality: Modality of the captions.
        number: Captions held out of each instance.

    Raises:
        ValueError: If the modality is unknown or its records are no strings.
    """
    kept, words = [], []
    store = dataset.stores.get(modality, ())
    dataset.folds(modality)  # is there such a modality?
    for rows in dataset.members[modality]:
        first = max(min(1, len(rows)), len(rows) - number)
        held_out = [store[k] for k in rows[first:].tolist()]
        if not all(isinstance(caption, str) for caption in held_out):
            raise ValueError(f"the records of {modality!r} are no captions")
        kept.append(rows[:first])
        words.append({word for text in held_out for word in re.findall(r"\w+", text.lower())})
    counts = Counter(word for of_instance in words for word in of_instance)
    rare = {word for word, count in counts.items() if count <= max(2, _COMMON * len(words))}
    name = f"words of {number} held-out {modality} caption{'s' if number > 1 else ''}"
    return dataset.replace(
        members={**dataset.members, modality: kept},
        attributes={name: [tuple(sorted(of_instance & rare)) for of_instance in words]},
    )
