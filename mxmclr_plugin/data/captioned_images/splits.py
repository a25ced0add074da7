"""Which photos are trained on, and which are held out."""

from __future__ import annotations

from collections.abc import Sequence

from mxmclr_plugin.data.seeded_split import seeded_order
from mxmclr_plugin.errors import DataError

__all__ = ["split_photos"]

_HELD_OUT = 1000  # as Karpathy's splits of Flickr30K and Flickr8K do


def split_photos(
    official: Sequence[str | None], seed: int
) -> tuple[dict[str, list[int]], tuple[str, ...]]:
    """Splits of photos: what their annotations say, and by chance what these leave open.

    A split that nobody names is drawn from what would be trained on: 1,000 photos, or a tenth where
    there are fewer than 10,000.

    Args:
        official: train, val or test of each photo, None for those of which nothing is said. If it
            is said of some, the others are left out.
        seed: Of what is drawn.

    Returns:
        The photos of ``train``, ``val`` and ``test`` in the order given, and a sentence for each
        departure from an official split.

    Raises:
        DataError: If there are not enough photos for three splits.
    """
    notes = []
    splits: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    said = [k for k, split in enumerate(official) if split is not None]
    for k in said or range(len(official)):
        splits[official[k] or "train"].append(k)
    if said and len(said) < len(official):
        notes.append(f"{len(official) - len(said)} photos are in no official split and not used")
    missing = [name for name in ("val", "test") if not splits[name]]
    size = min(_HELD_OUT, max(1, len(splits["train"]) // 10))
    if len(splits["train"]) <= len(missing) * size:
        raise DataError(
            f"{len(official)} photos, {len(splits['train'])} of them to train on, are too few for "
            "the splits train, val and test"
        )
    drawn = seeded_order(len(splits["train"]), seed)
    pool = splits["train"]
    for place, name in enumerate(missing):
        splits[name] = sorted(pool[k] for k in drawn[place * size : (place + 1) * size])
    splits["train"] = sorted(pool[k] for k in drawn[len(missing) * size :])
    if missing:
        notes.append(
            f"no official split of photos names {' or '.join(missing)}: {size} photos each were "
            f"drawn from the others with seed {seed}, so figures are not those of a known test set"
            if "test" in missing
            else f"the {size} photos of val were drawn from those of train with seed {seed}"
        )
    return splits, tuple(notes)
