"""What a run ranks: items of a split with their unit vectors, and what there is to see of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from mxmclr_plugin.data.dataset import MultifoldDataset, Store
from mxmclr_plugin.data.file_store import FileStore
from mxmclr_plugin.data.images import DRAWABLE, image_of
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.inference.embedding_cache import cached_embeddings
from mxmclr_plugin.inference.run import Run
from mxmclr_plugin.registry import check_known
from mxmclr_plugin.retrieval.cross_modal import retrieval_items
from mxmclr_plugin.retrieval.direction import Side, modalities_of


@dataclass(frozen=True, eq=False)
class RankedItems:
    """Items of a side of a direction: single observations, or fused ones.

    Attributes:
        z: Unit vectors. Shape: (items, D).
        ids: Instance of each. Shape: (items,).
        positions: The (first) observation of each in the side's first modality. Shape: (items,).
        dataset: The data that have these observations.
    """

    z: Tensor
    ids: Tensor
    positions: Tensor
    dataset: MultifoldDataset


@dataclass(frozen=True)
class VisibleItem:
    """What there is to see of an item.

    Attributes:
        name: Name of its instance.
        caption: The item itself if it is a text, else the first text of its instance; None where
            there is none.
        image: Of the item, or else of the first observation of its instance that has one; None
            where there is none.
        file: The file of that observation; None if it is not in a file.
    """

    name: str
    caption: str | None
    image: Image.Image | None
    file: str | None = None


def ranked_items(run: Run, dataset: MultifoldDataset, side: Side) -> RankedItems:
    """The items of data.

    Embeddings are computed once, see
    :func:`~mxmclr_plugin.inference.embedding_cache.cached_embeddings`.

    Args:
        run: The run.
        dataset: Data of the run. Of a side with several modalities, instances that have all.
        side: A modality, or several that are fused.

    Raises:
        ConfigError: If a modality has no tower or no records, or several cannot be fused.
    """
    parts = modalities_of(side)
    for part in parts:
        check_known("modality: the run has no tower of", part, run.towers)
    if len(parts) > 1 and set(parts) <= set(dataset.modalities):
        whole = dataset.observed_in(parts, len(parts))
        dataset = dataset if whole.all() else dataset.subset(whole)
    embedded = cached_embeddings(run, dataset, parts)
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
    return RankedItems(items, ids, first.positions[order], dataset)


def visible_item(
    run: Run,
    dataset: MultifoldDataset,
    modality: str,
    instance: int,
    position: int,
    size: int = 96,
) -> VisibleItem:
    """What there is to see of an item.

    Args:
        run: The run.
        dataset: The data that have it.
        modality: The item's, or the first of several that are fused.
        instance: Id of its instance.
        position: As in :attr:`RankedItems.positions`.
        size: Edge in pixels of what is rendered or drawn.
    """
    kinds = run.data.kinds
    place = int((torch.from_numpy(dataset.ids) == instance).nonzero()[0])
    # The item itself stands for its modality, and before others.
    own = int(dataset.observations_of(modality)[0][position])
    rows = {modality: own} | {
        name: int(of[place][0])
        for name, of in dataset.members.items()
        if len(of[place]) and name != modality
    }
    text = next((name for name in rows if kinds[name] == "text"), None)
    drawn = next((name for name in rows if kinds[name] in DRAWABLE), None)
    image, file = None, None
    if drawn is not None:
        store, row = dataset.stores[drawn], rows[drawn]
        image, file = image_of(store[row], kinds[drawn], size), file_of(store, row)
    caption = None if text is None else dataset.stores[text][rows[text]]
    return VisibleItem(dataset.names[place], caption, image, file)


def file_of(store: Store, row: int) -> str | None:
    """The file of a record; None if it is not in a file."""
    return str(store.paths[row]) if isinstance(store, FileStore) else None
