"""Observations of shapes: voxel grids, and images from files or rendered."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from mxmclr_plugin.data.dataset import Store
from mxmclr_plugin.data.file_store import FileStore, Reader, readable_files
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.readers.image import evenly, read_image, read_packed_views
from mxmclr_plugin.data.readers.voxel import read_voxel
from mxmclr_plugin.data.shapenet.layout import grids_in, images_in
from mxmclr_plugin.data.views import SeparateViews, StackedViews, rendered_views


@dataclass(frozen=True)
class Observed:
    """Records of one modality, and whose they are.

    Attributes:
        store: The records.
        members: Records of each shape that has some, by its id.
    """

    store: Store
    members: Mapping[str, Sequence[int]]


def voxel_grids(
    files: Mapping[str, Path], models: Iterable[str], resolution: int, log: ProblemLog
) -> Observed:
    """Grids of those shapes that have one.

    Args:
        files: Grids by id.
        models: Shapes that are wanted.
        resolution: R.
        log: Gets a problem for each grid that cannot be read.

    Raises:
        DataError: If one cannot, and problems are errors.
    """
    wanted = {model: files[model] for model in models if model in files}
    read = partial(read_voxel, resolution=resolution)
    return _one_each(wanted, read, log, kind="grid", key=f"voxel {resolution}")


def _one_each(
    files: Mapping[str, Path], read: Reader, log: ProblemLog, *, kind: str, key: str
) -> Observed:
    """A record of each shape, from the file by its id; arguments as for ``readable_files``."""
    good = readable_files(list(files.values()), read, log, kind=kind, key=key)
    kept = [model for model, is_good in zip(files, good, strict=True) if is_good]
    store = FileStore([files[model] for model in kept], read)
    return Observed(store, {model: (k,) for k, model in enumerate(kept)})


def rendered(voxel: Observed, files: Mapping[str, Path], views: int, size: int) -> Observed:
    """Images rendered of grids, one record a shape; they are kept in the cache.

    Args:
        voxel: The grids.
        files: Where they lie.
        views: V.
        size: Edge of an image in pixels.

    Raises:
        ValueError: If a number cannot be.
    """
    digest = hashlib.sha256(str(tuple(voxel.store[0].shape)).encode())
    for model in voxel.members:
        status = files[model].stat()
        place = f"{files[model].resolve()} {status.st_size} {status.st_mtime_ns}\n"
        digest.update(os.fsencode(place))
    stacks = rendered_views(voxel.store, views, size, Path("views"), digest.hexdigest())
    return Observed(stacks, voxel.members)


def images_of_shapes(
    folder: Path, models: Iterable[str], views: int, size: int, log: ProblemLog
) -> Observed:
    """Images from files or from TriCoLo's archives, one record a shape.

    Where there are more than are wanted, they are taken evenly.

    Args:
        folder: Where they lie.
        models: Shapes that are wanted.
        views: V.
        size: Edge of an image in pixels.
        log: Gets a problem for each shape that has too few, and each file that cannot be read.

    Raises:
        DataError: If there is a problem, and problems are errors.
    """
    wanted, of_model = list(models), images_in(folder)
    if not of_model:
        return _packed(grids_in(folder), wanted, views, size, log)
    enough = []
    for model in wanted:
        there = len(of_model.get(model, ()))
        if there >= views:
            enough.append(model)
        else:
            log.add("images missing", model, f"{there} of {views} are in {folder}")
    chosen = [[of_model[model][k] for k in evenly(len(of_model[model]), views)] for model in enough]
    read = partial(read_image, size=size)
    flat = list(chain.from_iterable(chosen))
    good = readable_files(flat, read, log, kind="image", key=f"image {size}")
    kept = [k for k in range(len(enough)) if all(good[k * views : (k + 1) * views])]
    store = FileStore(list(chain.from_iterable(chosen[k] for k in kept)), read)
    return Observed(StackedViews(store, views), {enough[k]: (n,) for n, k in enumerate(kept)})


def _packed(
    files: Mapping[str, Path], wanted: Sequence[str], views: int, size: int, log: ProblemLog
) -> Observed:
    read = partial(read_packed_views, views=views, size=size)
    for model in wanted:
        if model not in files:
            log.add("images missing", model, f"there is no archive {model}.npz")
    there = {model: files[model] for model in wanted if model in files}
    return _one_each(there, read, log, kind="archive", key=f"packed views {views} {size}")


def separated(stacks: Observed, views: int) -> Observed:
    """Each image as a record of its own."""
    members = {
        model: [row * views + k for row in rows for k in range(views)]
        for model, rows in stacks.members.items()
    }
    return Observed(SeparateViews(stacks.store, views), members)
