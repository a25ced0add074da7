"""The splits of a manifest: said by it, or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mxmclr_plugin.data.manifest.instances import SPLITS, ManifestInstance
from mxmclr_plugin.data.seeded_split import seeded_order
from mxmclr_plugin.errors import DataError

__all__ = ["split_places"]


def split_places(
    instances: Sequence[ManifestInstance], seed: int, source: Path
) -> tuple[dict[str, list[int]], list[str]]:
    """Which instance is in which split.

    One that names no split is trained on. ``val`` and ``test``, where nobody names them, are drawn
    from what is trained on: a tenth each. Where all name one and it is never ``train``, there are
    the splits that they name: such data are for measuring.

    Args:
        instances: The instances.
        seed: Of what is drawn.
        source: The manifest, for messages.

    Returns:
        Places of the instances of each split, and sentences that belong beside figures.

    Raises:
        DataError: If some are trained on, but none of them would be left.
    """
    places: dict[str, list[int]] = {split: [] for split in SPLITS}
    for k, instance in enumerate(instances):
        places[instance.split or "train"].append(k)
    notes = []
    undecided = sum(instance.split is None for instance in instances)
    if 0 < undecided < len(instances):
        notes.append(f"{undecided} instances of {source.name} name no split and count as train")
    if not places["train"]:
        return {split: of for split, of in places.items() if of}, notes
    drawn = [split for split in ("test", "val") if not places[split]]
    pool = places["train"]
    if len(pool) < 1 + len(drawn):
        raise DataError(
            f"{source} has {len(pool)} instances to train on: too few to draw {drawn} from them"
        )
    if drawn:
        share = max(1, len(pool) // 10)
        order = [pool[k] for k in seeded_order(len(pool), seed)]
        for number, split in enumerate(drawn):
            places[split] = sorted(order[number * share : (number + 1) * share])
        places["train"] = sorted(order[len(drawn) * share :])
        notes.append(
            f"{source.name} does not say what is {' and '.join(drawn)}: {share} instances "
            f"{'each ' if len(drawn) > 1 else ''}were drawn with seed {seed}, figures are those "
            "of that draw"
        )
    return places, notes
