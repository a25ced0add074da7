"""What a run ranks: items of a split with their unit vectors, and what there is to see of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from mxmclr_plugin.data.images import DRAWABLE, image_of
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.inference.embedding_cache import cached_embeddings
from mxmclr_plugin.inference.run import Run
from mxmclr_plugin.registry import did_you_mean
from mxmclr_plugin.retrieval.cross_modal import retrieval_items
from mxmclr_plugin.retrieval.direction import Side, modalities_of

__all__ = ["RankedItems", "VisibleItem", "ranked_items", "visible_item"]


@dataclass(frozen=True, eq=False)
class RankedItems:
    """Items of a side of a direction: single observations, or fused ones.

    Attributes:
        z: Unit vectors. Shape: (items, D).
        ids: Instance of each. Shape: (items,).
        positions: The (first) observation of each in the side's first modality. Shape: (items,).
    """

    z: Tensor
    ids: Tensor
    positions: Tensor


@dataclass(frozen=True)
class VisibleItem:
    """What there is to see of an item.

    Attributes:
        name: Name of its instance.
        caption: The item itself if it is a text, else the first text of its instance; None where
            there is none.
        image: Of the item, or else of the first observation of its instance that has one; None
            where there is none.
    """

    name: str
    caption: str | None
    image: Image.Image | None


def ranked_items(run: Run, split: str, side: Side) -> RankedItems:
    """The items of a split.

    Embeddings are computed once, see
    :func:`~mxmclr_plugin.inference.embedding_cache.cached_embeddings`.

    Args:
        run: The run.
        split: The split.
        side: A modality, or several that are fused.

    Raises:
        ConfigError: If a modality has no tower or no records, or several cannot be fused.
    """
    parts = modalities_of(side)
    for part in parts:
        if part not in run.towers:
            raise ConfigError(
                f"modality: the run has no tower of {part!r}, "
                f"{did_you_mean(part, run.towers)}it has those of {', '.join(run.towers)}"
            )
    embedded = cached_embeddings(run, split, parts)
    fuse = [modality for modality in run.config.eval.fuse if modality in parts]
    try:
        items, ids = retrieval_items(
            {modality: of.z for modality, of in embedded.items()},
            {modality: of.ids for modality, of in embedded.items()},
            side,
            fuse,
        )
    except ValueError as error:
        raise ConfigError(f"modality: {error}") from error
    first = embedded[parts[0]]
    order = torch.arange(len(first.ids))
    if len(parts) > 1 or fuse:  # items are by instance then
        order = torch.argsort(first.ids, stable=True)
    if parts[0] in fuse:
        sorted_ids = first.ids[order]
        order = order[torch.searchsorted(sorted_ids, ids)]
    return RankedItems(items, ids, first.positions[order])


def visible_item(
    run: Run, split: str, modality: str, instance: int, position: int, size: int = 96
) -> VisibleItem:
    """What there is to see of an item.

    Args:
        run: The run.
        split: The split.
        modality: The item's, or the first of several that are fused.
        instance: Id of its instance.
        position: As in :attr:`RankedItems.positions`.
        size: Edge in pixels of what is rendered or drawn.
    """
    dataset, kinds = run.split(split), run.data.kinds
    place = int((torch.from_numpy(dataset.ids) == instance).nonzero()[0])
    records = {
        name: dataset.stores[name][int(rows[place][0])]
        for name, rows in dataset.members.items()
        if len(rows[place]) and (kinds[name] == "text" or kinds[name] in DRAWABLE)
    }
    # The item itself stands for its modality, and before others.
    own = dataset.stores[modality][int(dataset.observations_of(modality)[0][position])]
    records = {modality: own, **{name: r for name, r in records.items() if name != modality}}
    captions = [record for name, record in records.items() if kinds[name] == "text"]
    drawn = [(record, kinds[name]) for name, record in records.items() if kinds[name] in DRAWABLE]
    return VisibleItem(
        dataset.names[place],
        captions[0] if captions else None,
        image_of(*drawn[0], size) if drawn else None,
    )
