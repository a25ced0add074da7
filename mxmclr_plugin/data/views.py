"""Several images of one thing, as one record or one each; rendered images on disk."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from mxmclr_plugin.bounds import OneOf, within_bounds
from mxmclr_plugin.data.dataset import Store
from mxmclr_plugin.data.rendering import render_views
from mxmclr_plugin.files import kept, write_atomically
from mxmclr_plugin.progress import progress_bar

# Part of every file's name: raise it when rendering changes.
_VERSION = 1
_VOXELS_AT_ONCE = 64 * 32**3
_MARK_EVERY = 16  # batches, from one note of how far it is to the next


class ArrayFile:
    """Records along the first axis of a ``.npy`` file, read on access.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._array = np.load(path, mmap_mode="r", allow_pickle=False)

    def __reduce__(self) -> tuple[type[ArrayFile], tuple[Path]]:
        # A mapped array would be copied whole to each worker.
        return type(self), (self.path,)

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(self._array[index]))


class StackedViews:
    """One record of each ``views`` images that follow each other.

    Args:
        images: Images of the first thing, then of the second, ... Shape of each: (3, H, W).
        views: V, images of a thing.
    """

    def __init__(self, images: Store, views: int) -> None:
        self.images = images
        self.views = views

    def __len__(self) -> int:
        return len(self.images) // self.views

    def __getitem__(self, index: int) -> Tensor:
        """The images of a thing. Shape: (V, 3, H, W)."""
        first = range(0, len(self.images), self.views)[index]
        return torch.stack([self.images[first + k] for k in range(self.views)])


class SeparateViews:
    """A record for each of the ``views`` images of which a record is a stack.

    Args:
        stacks: Stacks. Shape of each: (V, 3, H, W).
        views: V.
    """

    def __init__(self, stacks: Store, views: int) -> None:
        self.stacks = stacks
        self.views = views

    def __len__(self) -> int:
        return len(self.stacks) * self.views

    def __getitem__(self, index: int) -> Tensor:
        """One image. Shape: (3, H, W)."""
        thing, view = divmod(range(len(self))[index], self.views)
        image: Tensor = self.stacks[thing][view]
        return image


@within_bounds
def rendered_views(
    grids: Store,
    views: Annotated[int, OneOf((6, 12))],
    size: Annotated[int, Ge(8)],
    folder: Path,
    key: str,
) -> ArrayFile:
    """Images of all grids of a store, rendered once and kept in a folder.

    Args:
        grids: RGBA grids, uint8. Shape of each: (4, R, R, R).
        views: V, images of a grid.
        size: S, their edge in pixels.
        folder: Folder that they are kept in; relative to the cache folder.
        key: What tells these grids from others.

    Returns:
        Records of the shape (V, 3, S, S), uint8: see
        :func:`~mxmclr_plugin.data.rendering.render_views`.

    Raises:
        ValueError: If ``views`` is not 6 or 12, ``size`` is below 8, or there is no grid.
    """
    if len(grids) == 0:
        raise ValueError("there are no grids to render")
    named = json.dumps([_VERSION, key, views, size, len(grids)])
    name = f"views-{hashlib.sha256(named.encode()).hexdigest()[:16]}.npy"
    return ArrayFile(kept(folder / name, partial(_render, grids, views, size)))


def _render(grids: Store, views: int, size: int, path: Path) -> None:
    """Render to a file; a call that was stopped is continued by the next one."""
    mark = path.with_name(f"{path.name}.done")
    shape = (len(grids), views, 3, size, size)
    done = _marked(mark) if path.exists() else 0
    if not done:
        mark.unlink(missing_ok=True)  # of a file that is no more: it would skip images of this one
    images = np.lib.format.open_memmap(path, "r+" if done else "w+", np.uint8, shape)
    step = max(1, _VOXELS_AT_ONCE // grids[0][0].numel())
    with progress_bar() as progress:
        task = progress.add_task(f"rendering {views} views", total=len(grids), completed=done)
        for number, start in enumerate(range(done, len(grids), step), start=1):
            batch = torch.stack([grids[k] for k in range(start, min(start + step, len(grids)))])
            images[start : start + len(batch)] = render_views(batch, views, size).numpy()
            progress.advance(task, len(batch))
            if number % _MARK_EVERY == 0:
                images.flush()
                write_atomically(mark, str(start + len(batch)))
    images.flush()
    mark.unlink(missing_ok=True)


def _marked(mark: Path) -> int:
    """How many grids are rendered, 0 if the mark does not say."""
    try:
        return int(mark.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
