"""Data sets of Omniglot: images x strokes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor

from mxmclr_plugin.bounds import within_bounds
from mxmclr_plugin.data.augmented_store import augmented
from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.data.omniglot.drawings import Drawings, read_archive, read_folders
from mxmclr_plugin.data.paths import is_hidden
from mxmclr_plugin.data.problems import OnError, ProblemLog
from mxmclr_plugin.data.splits import SPLITS, DataSplits, hold_out
from mxmclr_plugin.errors import DataError
from mxmclr_plugin.files import expanded
from mxmclr_plugin.registry import register_dataset

_VAL, _TEST = 0.1, 0.2  # of what is split


@register_dataset("omniglot")
@within_bounds
def omniglot(
    root: str | None = None,
    *,
    split: Literal["character", "alphabet", "official", None] = None,
    size: Annotated[int, Ge(8)] = 32,
    points: Annotated[int, Ge(2)] = 64,
    copies: Annotated[int, Ge(0)] = 8,
    augment_seed: int = 0,
    seed: int = 0,
    on_error: OnError = "skip",
) -> DataSplits:
    """Omniglot (Lake et al. 2015, https://doi.org/10.1126/science.aab3050): images x strokes.

    A character is an instance. Its images are those of drawers 1 to 10 and its strokes those of
    drawers 11 to 20, so an image and a stroke sequence are never the same drawing; held out are
    characters. There is no official protocol of retrieval between the two.

    Args:
        root: Folder with ``omniglot_small.npz`` or another such archive, or with the original
            folders ``images_background``, ``strokes_background`` (and ``_evaluation``).
        split: ``character``: a fifth of the characters are tested and a tenth are for validation,
            drawn by the seed; most of their alphabets occur in training. ``alphabet``: the same
            shares of alphabets. ``official``: the evaluation set is tested, a tenth of the
            background set's characters is for validation. null: official where both sets are
            there, else character.
        size: Pixels a side, to which images are resized.
        points: Points per drawing, sampled along the strokes.
        copies: Slightly rotated, shifted, scaled and slanted copies of each training image; 0
            uses the image itself.
        augment_seed: Seed of the copies.
        seed: Seed of the split.
        on_error: ``skip`` leaves out, and lists, what cannot be read; ``raise`` stops there.

    Returns:
        Data sets ``train``, ``val`` and ``test`` with the modalities ``image`` and ``strokes``.

    Raises:
        DataError: If there is no such data, or with ``raise`` for each problem.
        ValueError: If an option is out of range.
    """
    if root is None:
        raise DataError("say where Omniglot is: root=FOLDER")
    folder = expanded(root)
    log = ProblemLog(on_error)
    archives = sorted(file for file in folder.glob("*.npz") if not is_hidden(file, folder))
    if len(archives) > 1:
        raise DataError(f"{folder} holds several archives, {', '.join(a.name for a in archives)}")
    if archives:
        drawings = read_archive(archives[0], size, points)
    else:
        drawings = read_folders(folder, size, points, log)
    kept = []
    for k, name in enumerate(drawings.characters):
        if len(drawings.image_members[k]) and len(drawings.stroke_members[k]):
            kept.append(k)
        else:
            log.add("character incomplete", name, "it has no image, or no strokes, left")
    whole = MultifoldDataset(
        {"image": drawings.images, "strokes": drawings.strokes},
        {"image": drawings.image_members, "strokes": drawings.stroke_members},
        ids=range(len(drawings.characters)),
        names=drawings.characters,
    ).subset(kept)
    splits, note = _split(whole.names, drawings, split, seed)
    by_name = {name: whole.subset(rows) for name, rows in splits.items()}
    plain = {}
    if copies:
        plain["train"] = by_name["train"]
        by_name["train"] = augmented(by_name["train"], "image", _turned(), copies, augment_seed)
    return DataSplits(
        by_name,
        kinds={"image": "image", "strokes": "strokes"},
        notes=(note,),
        problems=tuple(log.problems),
        plain=plain,
    )


def _split(
    names: list[str], drawings: Drawings, split: str | None, seed: int
) -> tuple[dict[str, list[int]], str]:
    """Characters of each split, and a sentence about it."""
    split = split or ("official" if drawings.evaluation else "character")
    if split == "official":
        if not drawings.evaluation:
            raise DataError("an official split needs images_background and images_evaluation")
        background = [name for name in names if name not in drawings.evaluation]
        drawn = hold_out(background, {"val": _VAL}, seed, what="characters")
        drawn["test"] = [name for name in names if name in drawings.evaluation]
        note = (
            "Omniglot's evaluation set, of other alphabets, is tested; the characters of val were "
            f"drawn from the background set with seed {seed}"
        )
    elif split == "alphabet":
        alphabets = list(dict.fromkeys(name.split("/")[0] for name in names))
        drawn = hold_out(alphabets, {"test": _TEST, "val": _VAL}, seed, what="alphabets")
        note = (
            f"the test alphabets, {', '.join(sorted(drawn['test']))}, were drawn with seed {seed}"
        )
    else:
        drawn = hold_out(names, {"test": _TEST, "val": _VAL}, seed, what="characters")
        note = (
            f"the {len(drawn['test'])} test characters do not occur in training, but most of their "
            f"alphabets do; they were drawn with seed {seed}"
        )
    split_of = {name: part for part, of_part in drawn.items() for name in of_part}
    splits: dict[str, list[int]] = {part: [] for part in SPLITS}
    for k, name in enumerate(names):
        splits[split_of[name.split("/")[0] if split == "alphabet" else name]].append(k)
    return splits, note


def _turned() -> Callable[[Tensor], Tensor]:
    """Random turns, shifts and shears by about as much as drawers differ."""
    from torchvision.transforms import v2  # takes seconds to import

    # As white on black, since what comes in from outside is black.
    moved = v2.RandomAffine(
        degrees=8,
        translate=(0.05, 0.05),
        scale=(0.9, 1.1),
        shear=8,
        interpolation=v2.InterpolationMode.BILINEAR,
    )
    transform: Callable[[Tensor], Tensor] = v2.Compose(
        [v2.RandomInvert(p=1), moved, v2.RandomInvert(p=1)]
    )
    return transform
