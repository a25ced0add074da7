"""Sections with details of runs: similarity of instances, embedding maps, queries."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from sklearn.manifold import TSNE

from mxmclr_plugin.errors import ConfigError, DataError
from mxmclr_plugin.report.blocks import Block, Plot, Section, Text
from mxmclr_plugin.report.gallery import query_lists
from mxmclr_plugin.report.palette import SeriesStyle
from mxmclr_plugin.report.plots.embedding_map import PlanePoints, embedding_map
from mxmclr_plugin.report.plots.similarity_matrix import similarity_matrices
from mxmclr_plugin.report.shown_runs import LoadedRun, ShownRuns
from mxmclr_plugin.report.similarity import (
    chosen_instances,
    grouped_order,
    instance_similarity,
)
from mxmclr_plugin.retrieval.direction import modalities_of, side_name

Floats = npt.NDArray[np.float32]

_MATRIX, _MAPPED, _COLOURED = 60, 60, 8
"""Instances of a matrix, of a map, and with a colour in the map."""
_FOLD = 6
"""Mapped observations of an instance in a modality."""
_FEWEST = 4


def qualitative_sections(
    shown: ShownRuns,
    styles: Mapping[str, SeriesStyle],
    seed: int,
    console: Console,
    trust: bool = False,
) -> list[Section]:
    """Similarity matrices, embedding maps, gallery.

    Args:
        shown: The runs. If one cannot be loaded, a sentence says why in place of these sections.
        styles: Styles by label.
        seed: Seed of random draws and of the maps.
        console: Where data that are left out are reported.
        trust: Whether the configuration of a run may name code that is not registered.
    """
    loaded: Sequence[LoadedRun] = ()
    text = shown.text
    try:
        loaded = shown.load(console, trust)
    except (ConfigError, DataError) as error:
        text = f"Left out: {error}"
    if not loaded:
        return [Section("gallery", "Similarity, map and queries", [Text(text)])]
    return [
        Section("similarity", "Similarity by instance", [Text(text), _matrices(loaded, seed)]),
        Section("map", "Embedding map", [Text(text), *_maps(loaded, seed)]),
        Section("gallery", "Queries and their results", [Text(text), *query_lists(loaded, styles)]),
    ]


def _matrices(loaded: Sequence[LoadedRun], seed: int) -> Plot:
    direction = next(iter(loaded[0].run.config.directions.values()))
    query, gallery = modalities_of(direction.query), modalities_of(direction.gallery)
    rows, columns = side_name(query), side_name(gallery)
    items = loaded[0].items
    instances = chosen_instances([items[query].ids, items[gallery].ids], _MATRIX, seed)
    plain = {
        run.label: instance_similarity(run.items[query], run.items[gallery], instances)
        for run in loaded
    }
    order = grouped_order(plain[loaded[0].label])
    matrices = {label: matrix[order][:, order] for label, matrix in plain.items()}
    names = loaded[0].names(instances[torch.from_numpy(order)])
    pairs = max(len(names) * (len(names) - 1), 1)
    means = "; ".join(
        f"{label}: {matrix.diagonal().mean():.2f} to itself, "
        f"{(matrix.sum() - matrix.trace()) / pairs:.2f} to others"
        for label, matrix in matrices.items()
    )
    return Plot(
        "similarity",
        "",
        f"Cosines between the fused {rows} (rows) and {columns} (columns) of {len(names)} "
        f"instances; the diagonal compares an instance with itself. Neighbours are similar in "
        f"{loaded[0].label}. Means: {means}.",
        f"Matrices of cosines. Means: {means}.",
        lambda width: similarity_matrices(matrices, names, rows, columns, width),
    )


def _maps(loaded: Sequence[LoadedRun], seed: int) -> list[Block]:
    sides = list(loaded[0].items)
    ids = {side: loaded[0].items[side].ids for side in sides}
    instances = chosen_instances(list(ids.values()), _MAPPED, seed)
    # The same items in every map, with a colour for some instances.
    rows = {
        side: torch.cat([(of == instance).nonzero()[:_FOLD, 0] for instance in instances.tolist()])
        for side, of in ids.items()
    }
    modalities = [side_name(side) for side in sides for _ in rows[side]]
    if len(modalities) < _FEWEST:
        return [Text(f"Left out: a map needs {_FEWEST} observations.")]
    coloured = chosen_instances([instances], _COLOURED, seed)
    name_of = dict(zip(coloured.tolist(), loaded[0].names(coloured), strict=True))
    highlighted = [
        name_of.get(instance, "") for side in sides for instance in ids[side][rows[side]].tolist()
    ]
    plots: list[Block] = []
    for name, project in _projections().items():
        maps = {}
        for run in loaded:
            z = torch.cat([run.items[side].z[rows[side]] for side in sides])
            maps[run.label] = PlanePoints(project(z.float().numpy(), seed), modalities, highlighted)
        text = (
            f"{name} of {len(modalities)} embeddings of {len(instances)} instances in "
            f"{' and '.join(map(side_name, sides))}, by cosine, seed {seed}; {len(coloured)} "
            "instances are in colour. Near points are similar; distances between groups mean "
            "little."
        )
        plots.append(Plot(f"map-{name.lower()}", name, text, text, partial(embedding_map, maps)))
    return plots


def _projections() -> dict[str, Callable[[Floats, int], Floats]]:
    """Projections by name: from unit vectors (rows, D), four at least, and a seed to (rows, 2)."""
    return {"t-SNE": _tsne, **({"UMAP": _umap} if find_spec("umap") else {})}


def _tsne(z: Floats, seed: int) -> Floats:
    perplexity = min(30.0, (len(z) - 1) / 3)
    model = TSNE(perplexity=perplexity, metric="cosine", init="pca", random_state=seed)
    return np.asarray(model.fit_transform(z), np.float32)


def _umap(z: Floats, seed: int) -> Floats:
    from umap import UMAP

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*n_jobs value.*")  # a seed takes one thread
        model = UMAP(n_neighbors=min(15, len(z) - 1), metric="cosine", random_state=seed)
        return np.asarray(model.fit_transform(z), np.float32)
