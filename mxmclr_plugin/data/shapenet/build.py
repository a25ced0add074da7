"""Data sets of Text2Shape on ShapeNet, from its own or TriCoLo's files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from mxmclr_plugin.bounds import within_bounds
from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.members import flattened
from mxmclr_plugin.data.problems import OnError, ProblemLog
from mxmclr_plugin.data.shapenet.captions import (
    ShapeEntry,
    read_entries,
    read_vocabulary,
)
from mxmclr_plugin.data.shapenet.layout import (
    caption_files,
    find_captions,
    find_grids,
    find_images,
    find_splits,
    grids_in,
    has_images,
    named_path,
)
from mxmclr_plugin.data.shapenet.observations import (
    Observed,
    images_of_shapes,
    rendered,
    separated,
    voxel_grids,
)
from mxmclr_plugin.data.splits import SPLITS, DataSplits, hold_out
from mxmclr_plugin.errors import DataError
from mxmclr_plugin.files import expanded
from mxmclr_plugin.registry import register_dataset

_RENDERED = (
    "the views are rendered from the voxel grids: do not compare results with those published for "
    "renderings of the meshes"
)
_PICKLES = (
    "Text2Shape's own splits (processed_captions_*.p) are pickles, which are never opened: "
    "docs/data/shapenet.md shows how to extract their ids"
)


@register_dataset("shapenet")
@within_bounds
def shapenet(
    root: str | None = None,
    *,
    captions: str | None = None,
    splits: str | None = None,
    grids: str | None = None,
    images: str | None = None,
    resolution: Literal[32, 64, 128] = 32,
    category: Literal["chair", "table", "both"] = "both",
    views: Literal[6, 12, None] = None,
    view_size: Annotated[int, Ge(8)] = 64,
    views_from: Literal["auto", "images", "grids"] = "auto",
    separate_views: bool = False,
    seed: int = 0,
    on_error: OnError = "skip",
) -> DataSplits:
    """Text2Shape's chairs and tables (Chen et al. 2018, https://arxiv.org/abs/1803.08495).

    A shape is an instance; its captions, its voxel grid and its images are the observations.
    Text2Shape's own layout and TriCoLo's (https://arxiv.org/abs/2201.07366) of it are found by
    themselves; docs/data/shapenet.md lists the names. A shape is left out if it has no caption, or
    neither grid nor images, and each is listed.

    Args:
        root: Folder of the files.
        captions: File of the captions, if not found: CSV, JSON or JSONL; in ``root`` or anywhere.
        splits: Folder of the split files, if not found.
        grids: Folder of the voxel grids, if not found.
        images: Folder of the images, if not found.
        resolution: Voxels a side of the grids: 32, 64 or 128.
        category: ``"chair"``, ``"table"`` or ``"both"``.
        views: 6 or 12 images of each shape, from all sides; null for none.
        view_size: Pixels a side of an image.
        views_from: ``"images"`` reads the files, ``"grids"`` renders the grids, ``"auto"`` reads
            images if there are any.
        separate_views: Whether each image is an observation of its own, of the modality ``image``;
            else all together are one observation of the modality ``views``.
        seed: Seed of the split, if there is no official one.
        on_error: ``"skip"`` leaves out what cannot be used and lists it, ``"raise"`` makes it an
            error.

    Returns:
        Data sets ``train``, ``val`` and ``test`` with the modalities ``text``, ``voxel`` and, if
        asked for, ``views`` or ``image``.

    Raises:
        DataError: If the files are not there, no shape is whole, or something is wrong and problems
            are errors.
        ValueError: If an option cannot be.
    """
    if root is None:
        raise DataError(
            "data.root is needed: the folder with captions.tablechair.csv and the voxel grids of "
            "text2shape.stanford.edu, or with TriCoLo's files"
        )
    base = expanded(root)
    if not base.is_dir():
        raise DataError(f"data.root: there is no folder {base}")
    log = ProblemLog(on_error)
    notes: list[str] = []
    split_of, entries = _described(base, captions, splits, log, notes)
    captions_of = _captions_of(entries, category)
    files = grids_in(named_path(base, grids, "grids")) if grids else find_grids(base, resolution)
    source = _image_folder(base, images, views_from) if views else None
    if not files and source is None:
        raise DataError(
            f"there are no voxel grids in {base}, see docs/data/shapenet.md: set data.grids to "
            "their folder"
        )
    observed_in = _observed(captions_of, files, source, resolution, views, view_size, log, notes)
    if separate_views and views and "views" in observed_in:
        observed_in["image"] = separated(observed_in.pop("views"), views)
    captioned = {entry.model for entry in entries if entry.captions}
    listed = (split_of or {}).keys()
    if without := len(listed - captioned):
        notes.append(f"{without} shapes of the split files have no caption and are not used")
    if uncaptioned := len(files.keys() - captioned - listed):
        notes.append(f"{uncaptioned} voxel grids have no caption and are not used")

    models = sorted(
        m for m in captions_of if any(m in observed.members for observed in observed_in.values())
    )
    if not models:
        raise DataError(
            f"no shape in {base} has a caption and a grid or images; left out: {log.summary()}"
        )
    if split_of is None:
        drawn = hold_out(models, {"test": 0.1, "val": 0.1}, seed, what="shapes", by_name=True)
        split_of = {model: split for split, of_split in drawn.items() for model in of_split}
        sizes = "/".join(str(list(split_of.values()).count(split)) for split in SPLITS)
        notes.append(
            f"the split is not the official one: {len(models)} shapes are split by the seed {seed} "
            f"into {sizes}"
        )
    elif outside := len(captions_of.keys() - split_of.keys()):
        notes.append(f"{outside} shapes with captions are in no official split and are not used")
    return _assembled(models, captions_of, observed_in, split_of, log, notes)


def _described(
    base: Path, captions: str | None, splits: str | None, log: ProblemLog, notes: list[str]
) -> tuple[dict[str, str] | None, list[ShapeEntry]]:
    """The split of each shape, None where there is no official one, and the captions."""
    usual = [base / name for name in ("", "preprocessed/exp_data", "exp_data", "splits")]
    files = find_splits([named_path(base, splits, "splits")] if splits else usual)
    words = base / "shapenet.json"
    vocabulary = read_vocabulary(words) if files and words.is_file() else None
    split_of = None
    by_split: dict[str, list[ShapeEntry]] = {}
    if len(files) == len(SPLITS):
        by_split = {split: read_entries(files[split], log, vocabulary) for split in SPLITS}
        split_of = _official(by_split, log)
    elif files:
        listed = ", ".join(str(file) for file in files.values())
        notes.append(f"only {listed} of the three split files is there: it is not used")
    elif next(base.glob("processed_captions_*.p"), None):
        notes.append(_PICKLES)
    entries = [entry for of_split in by_split.values() for entry in of_split]
    captioned = {entry.model for entry in entries if entry.captions}
    if captions is None and captioned:
        others = [file for file in caption_files(base) if file not in files.values()]
        if len(others) == 1 and any(entry.model not in captioned for entry in entries):
            of_others = read_entries(others[0], log, vocabulary)
            wanted = {entry.model for entry in entries} - captioned
            entries += [entry for entry in of_others if entry.model in wanted]
        return split_of, entries
    file = named_path(base, captions, "captions") if captions else find_captions(base)
    return split_of, read_entries(file, log, vocabulary)


def _official(entries: dict[str, list[ShapeEntry]], log: ProblemLog) -> dict[str, str]:
    """The split of each shape; one that is in two is tested, and so not trained on."""
    split_of: dict[str, str] = {}
    for split in reversed(SPLITS):
        for model in dict.fromkeys(entry.model for entry in entries[split]):
            if split_of.setdefault(model, split) != split:
                log.add("in two splits", model, f"in {split} as well as in {split_of[model]}")
    return split_of


def _captions_of(entries: list[ShapeEntry], category: str) -> dict[str, list[str]]:
    """Captions of each shape of the category that has any."""
    captions_of: dict[str, list[str]] = {}
    for entry in entries:
        if entry.captions and category in ("both", entry.category):
            captions_of.setdefault(entry.model, []).extend(entry.captions)
    return captions_of


def _image_folder(base: Path, images: str | None, views_from: str) -> Path | None:
    """Where the images lie; None where they are to be rendered."""
    if views_from == "grids":
        return None
    folder = named_path(base, images, "images") if images else find_images(base)
    if folder and has_images(folder):
        return folder
    if images or views_from == "images":
        raise DataError(
            f"there are no images in {folder or base}, see docs/data/shapenet.md: set data.images "
            "to their folder, or data.views_from=grids to have them rendered"
        )
    return None


def _observed(
    captions_of: dict[str, list[str]],
    files: dict[str, Path],
    source: Path | None,
    resolution: int,
    views: int | None,
    view_size: int,
    log: ProblemLog,
    notes: list[str],
) -> dict[str, Observed]:
    """Voxel grids and views of the shapes; notes those that have neither."""
    observed_in = {"voxel": voxel_grids(files, captions_of, resolution, log)} if files else {}
    if views and source is None and observed_in["voxel"].members:
        notes.append(_RENDERED)
        observed_in["views"] = rendered(observed_in["voxel"], files, views, view_size)
    elif views and source is not None:
        observed_in["views"] = images_of_shapes(source, captions_of, views, view_size, log)
    for model, texts in captions_of.items():
        if model in files:
            continue
        if source is not None and model in observed_in["views"].members:
            log.add("grid missing", model, "it has images alone")
        else:
            log.add("captions without a shape", model, f"{len(texts)} captions, but no grid")
    return observed_in


def _assembled(
    models: list[str],
    captions_of: dict[str, list[str]],
    observed_in: dict[str, Observed],
    split_of: dict[str, str],
    log: ProblemLog,
    notes: list[str],
) -> DataSplits:
    texts, text_members = flattened(captions_of[model] for model in models)
    whole = MultifoldDataset(
        {"text": texts, **{modality: observed.store for modality, observed in observed_in.items()}},
        {
            "text": text_members,
            **{
                modality: [np.array(observed.members.get(model, ()), np.int64) for model in models]
                for modality, observed in observed_in.items()
            },
        },
        ids=np.arange(len(models)),
        names=models,
    )
    by_split = {
        split: whole.subset([k for k, model in enumerate(models) if split_of.get(model) == split])
        for split in SPLITS
    }
    for split, dataset in by_split.items():
        if len(dataset) == 0:
            raise DataError(
                f"no shape of the split {split} is left that has a caption and a grid or images; "
                f"left out: {log.summary() or 'nothing'}"
            )
    return DataSplits(
        by_split,
        kinds={modality: modality for modality in whole.modalities},
        notes=tuple(notes),
        problems=tuple(log.problems),
    )
