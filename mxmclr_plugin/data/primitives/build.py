"""Generates Text2Shape Primitives and keeps it in the cache."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Le, MultipleOf
from torch import Tensor

from mxmclr_plugin.bounds import Count, Share, within_bounds
from mxmclr_plugin.data.dataset import MultifoldDataset, Store
from mxmclr_plugin.data.members import flattened
from mxmclr_plugin.data.primitives.captions import (
    ATTRIBUTES,
    FEWEST,
    draw_partial_sentences,
    draw_sentences,
    fewest_partial,
    retrieval_ceiling,
)
from mxmclr_plugin.data.primitives.class_split import HeldOut, split_classes
from mxmclr_plugin.data.primitives.classes import all_classes
from mxmclr_plugin.data.primitives.voxels import draw_sample, occupancy
from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.data.views import SeparateViews, rendered_views
from mxmclr_plugin.files import expanded, kept
from mxmclr_plugin.progress import progress_bar
from mxmclr_plugin.registry import register_dataset

# Part of every cache key: raise it when the generator changes.
_VERSION = 4
_ALL_CAPTIONS = 191_850
_NOTE = (
    "Text2Shape Primitives is regenerated with this project's templates and noise: do not "
    "compare results with those published for the original files"
)

_PERMUTATION, _GRIDS, _CAPTIONS, _HELD_OUT = range(4)  # streams of random numbers


class VoxelStore:
    """Voxel grids kept as packed occupancy and one colour each.

    ``store[k]`` is an RGBA grid, uint8, of shape (4, R, R, R): the colour and alpha 255 where the
    shape is, 0 elsewhere.

    Args:
        packed: Occupancy, eight voxels a byte. Shape: (grids, R^3 / 8), uint8.
        rgb: Colours. Shape: (grids, 3), uint8.
        resolution: R.
    """

    def __init__(
        self, packed: npt.NDArray[np.uint8], rgb: npt.NDArray[np.uint8], resolution: int
    ) -> None:
        self.packed = packed
        self.rgba = np.concatenate([rgb, np.full((len(rgb), 1), 255, np.uint8)], axis=1)
        self.resolution = resolution

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int) -> Tensor:
        inside = np.unpackbits(self.packed[index]).reshape((self.resolution,) * 3)
        return torch.from_numpy(inside[None] * self.rgba[index][:, None, None, None])


@register_dataset("primitives")
@within_bounds
def primitives(
    root: str | Path | None = None,
    *,
    seed: Annotated[int, Ge(0)] = 0,
    resolution: Annotated[int, Ge(24), MultipleOf(2)] = 32,
    samples: Count = 10,
    captions: int | None = None,
    classes: Annotated[int, Ge(3), Le(756)] | None = None,
    noise: Share = 0.05,
    held_out: HeldOut = None,
    train_classes: int | None = None,
    described: Literal[1, 2, 3, None] = None,
    views: Literal[6, 12, None] = None,
    view_size: Annotated[int, Ge(8)] = 64,
    separate_views: bool = False,
) -> DataSplits:
    """Text2Shape Primitives (Chen et al. 2018, https://arxiv.org/abs/1803.08495), regenerated.

    The original is procedural: 6 shapes x 14 colours x 9 sizes = 756 classes with 10 perturbed
    samples and about 254 template sentences each, split by class into 605, 76 and 75. Templates,
    colours and noise are this project's, so figures are not those of the original files. A class
    is an instance, its grids and sentences are the observations.

    Everything follows from the arguments. It is generated once and kept on disk with checksums.

    Args:
        root: Folder of the cache; by default ``primitives`` in
            :func:`~mxmclr_plugin.files.cache_folder`.
        seed: Seed of samples, sentences and the split.
        resolution: R, voxels a side: an even number from 24, at which the smallest pyramid is 2 to
            3 voxels wide.
        samples: Grids per class.
        captions: Sentences per class; null for 191,850 in all, 253 or 254 per class (with
            ``described``, as many of these as there are).
        classes: Number of classes of a small set, split in the same proportions; null for all.
        noise: Standard deviation of the colour noise, from 0 to 1.
        held_out: Held out of training: some ``colours``, some ``shapes``, or ``combinations``,
            pairs of a shape and a colour that both occur in other pairs. null splits classes at
            random.
        train_classes: Training classes that are kept; null for all. Those of a smaller number are
            among those of a larger one; validation and test do not change.
        described: How many of shape, colour, height and radius a sentence names, 1 to 3, so that it
            fits several classes; null for all. The upper bound of r@1 is then in the notes.
        views: 6 or 12 adds the modality ``views``: so many images of each grid, rendered from
            all sides, as one observation.
        view_size: Pixels a side of those images.
        separate_views: Whether each image is an observation of its own, of the modality
            ``image``.

    Returns:
        Data sets ``train``, ``val`` and ``test`` with the modalities ``text`` and ``voxel``, and
        ``views`` or ``image`` with ``views``.

    Raises:
        ValueError: If an argument is out of range.
    """
    kinds = all_classes()
    most = FEWEST if described is None else fewest_partial(described)
    if captions is not None and not 1 <= captions <= most:
        condition = "" if described is None else f" with described={described}"
        raise ValueError(f"captions must be 1 to {most}{condition}, got {captions}")
    if held_out is not None and classes is not None:
        raise ValueError(
            "classes makes a small set at random, of which held_out may leave nothing: with "
            "held_out, set train_classes instead"
        )
    order = _generator(seed, _PERMUTATION).permutation(len(kinds))[:classes]
    splits, what = split_classes(kinds, order, held_out, train_classes, _generator(seed, _HELD_OUT))
    notes = [_NOTE, *([what] if what else [])]
    if described is not None:
        to_shape, to_text = retrieval_ceiling([kinds[k] for k in splits["test"]], described)
        notes.append(
            f"a sentence names {described} of {len(ATTRIBUTES)} attributes and fits several "
            f"classes: upper bound for R@1 on the test set: {to_shape:.2f} from text to shape, "
            f"{to_text:.2f} from shape to text"
        )

    options = {
        "version": _VERSION,
        "seed": seed,
        "resolution": resolution,
        "samples": samples,
        "captions": captions,
        "classes": classes,
        "noise": float(noise),
    }
    if described is not None:
        options["described"] = described
    key = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]
    parent = expanded(root).absolute() if root is not None else Path("primitives")
    folder = kept(parent / key, partial(_generate, options, order))
    stores: dict[str, Store] = {
        "voxel": VoxelStore(
            np.load(folder / "occupancy.npy"), np.load(folder / "rgb.npy"), resolution
        )
    }
    if views is not None:
        images = rendered_views(stores["voxel"], views, view_size, folder.parent, key)
        if separate_views:
            stores["image"] = SeparateViews(images, views)
        else:
            stores["views"] = images
    whole = _load(folder, stores, order)
    rows = np.empty(len(kinds), np.int64)
    rows[order] = np.arange(len(order))
    return DataSplits(
        {name: whole.subset(rows[of_split]) for name, of_split in splits.items()},
        kinds={modality: modality for modality in whole.modalities},
        notes=tuple(notes),
    )


def _generator(seed: int, *stream: int) -> np.random.RandomState:
    # Philox and RandomState are what numpy promises to draw the same numbers in all versions.
    return np.random.RandomState(np.random.Philox(np.random.SeedSequence((seed, *stream))))


def _generate(options: dict[str, Any], order: npt.NDArray[np.int64], folder: Path) -> None:
    """Write the files to a folder."""
    seed, resolution, samples = options["seed"], options["resolution"], options["samples"]
    described = options.get("described")
    kinds = all_classes()
    more = _ALL_CAPTIONS % len(kinds)  # classes with one sentence more
    packed = np.empty((len(order) * samples, resolution**3 // 8), np.uint8)
    rgb = np.empty((len(order) * samples, 3), np.uint8)
    lines = []
    with progress_bar() as progress:
        for place, index in enumerate(progress.track(order, description="generating Primitives")):
            kind = kinds[index]
            # A generator for each class, so that a small set is a part of the whole.
            generator = _generator(seed, _GRIDS, index)
            for row in range(place * samples, (place + 1) * samples):
                sample = draw_sample(kind, options["noise"], generator)
                packed[row] = np.packbits(occupancy(sample, resolution))
                rgb[row] = sample.rgb
            count = options["captions"] or _ALL_CAPTIONS // len(kinds) + int(index < more)
            words = _generator(seed, _CAPTIONS, index)
            if described is None:
                sentences = draw_sentences(kind, count, words)
            else:
                count = min(count, fewest_partial(described))
                sentences = draw_partial_sentences(kind, count, described, words)
            lines.append(json.dumps({"name": kind.name, "captions": sentences}) + "\n")

    folder.mkdir(exist_ok=True)
    np.save(folder / "occupancy.npy", packed)
    np.save(folder / "rgb.npy", rgb)
    (folder / "captions.jsonl").write_bytes("".join(lines).encode())
    (folder / "options.json").write_text(json.dumps(options, indent=2), encoding="utf-8")


def _load(folder: Path, stores: dict[str, Store], order: npt.NDArray[np.int64]) -> MultifoldDataset:
    """All classes; each of ``stores`` has equally many records of each class, class by class."""
    with (folder / "captions.jsonl").open(encoding="utf-8") as lines:
        sentences = [json.loads(line)["captions"] for line in lines]
    texts, text_members = flattened(sentences)
    kinds = all_classes()
    return MultifoldDataset(
        {"text": texts, **stores},
        {
            "text": text_members,
            **{
                modality: list(np.arange(len(store)).reshape(len(order), -1))
                for modality, store in stores.items()
            },
        },
        ids=order,
        names=[kinds[index].name for index in order],
        attributes={
            attribute: [(str(getattr(kinds[index], attribute)),) for index in order]
            for attribute in ATTRIBUTES
        },
    )
