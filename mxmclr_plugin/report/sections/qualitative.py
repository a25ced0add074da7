"""What runs have learned, in images: similarity of instances, maps, a gallery of queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from rich.console import Console

from mxmclr_plugin.errors import ConfigError, DataError
from mxmclr_plugin.report.blocks import Block, Plot, Section, Text
from mxmclr_plugin.report.instance_similarity import (
    chosen_instances,
    grouped_order,
    instance_similarity,
)
from mxmclr_plugin.report.loaded_runs import LoadedRun, load_shown
from mxmclr_plugin.report.palette import SeriesStyle
from mxmclr_plugin.report.plots.embedding_map import PlanePoints, embedding_map
from mxmclr_plugin.report.plots.similarity_matrix import similarity_matrices
from mxmclr_plugin.report.projection import projections
from mxmclr_plugin.report.sections.gallery import query_lists
from mxmclr_plugin.report.shown_runs import ShownRuns
from mxmclr_plugin.retrieval.direction import side_name

__all__ = ["qualitative_sections"]

_MATRIX, _MAPPED, _COLOURED = 60, 60, 8
"""Instances of a matrix, of a map, and those that have a colour there."""
_FOLD = 6
"""Observations of an instance in a modality that are mapped."""
_FEWEST = 4


def qualitative_sections(
    shown: ShownRuns, styles: Mapping[str, SeriesStyle], seed: int, console: Console
) -> list[Section]:
    """Similarity matrices, embedding maps, gallery.

    Args:
        shown: The runs. Where one cannot be loaded, a sentence says why in place of these parts.
        styles: By label; others have none.
        seed: Of what is drawn by chance, and of the maps.
        console: Where to say what is left out of the data.
    """
    loaded: Sequence[LoadedRun] = ()
    says = shown.says
    try:
        loaded = load_shown(shown, console)
    except (ConfigError, DataError) as error:
        says = f"Left out: {error}"
    if not loaded:
        return [Section("gallery", "Similarity, map and queries", [Text(says)])]
    return [
        Section("similarity", "Similarity by instance", [Text(says), _matrices(loaded, seed)]),
        Section("map", "Embedding map", [Text(says), *_maps(loaded, seed)]),
        Section(
            "gallery", "Queries and what they find", [Text(says), *query_lists(loaded, styles)]
        ),
    ]


def _matrices(loaded: Sequence[LoadedRun], seed: int) -> Plot:
    direction = next(iter(loaded[0].run.config.directions.values()))
    query, gallery = side_name(direction.query), side_name(direction.gallery)
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
        f"{label}: {matrix.diagonal().mean():.2f} to its own, "
        f"{(matrix.sum() - matrix.trace()) / pairs:.2f} to others"
        for label, matrix in matrices.items()
    )
    return Plot(
        "similarity",
        "",
        f"Cosines between the fused {query} (rows) and {gallery} (columns) of {len(names)} "
        f"instances; the diagonal is an instance with itself. Like ones stand side by side, as "
        f"{loaded[0].label} has them. Means: {means}.",
        f"Matrices of cosines. Means: {means}.",
        lambda width: similarity_matrices(matrices, names, query, gallery, width),
    )


def _maps(loaded: Sequence[LoadedRun], seed: int) -> list[Block]:
    endpoints = list(loaded[0].items)
    ids = {endpoint: loaded[0].items[endpoint].ids for endpoint in endpoints}
    instances = chosen_instances(list(ids.values()), _MAPPED, seed)
    # The same items in every map, with a colour for some instances.
    rows = {
        endpoint: torch.cat(
            [(of == instance).nonzero()[:_FOLD, 0] for instance in instances.tolist()]
        )
        for endpoint, of in ids.items()
    }
    modalities = [endpoint for endpoint in endpoints for _ in rows[endpoint]]
    if len(modalities) < _FEWEST:
        return [Text(f"Left out: a map needs {_FEWEST} observations.")]
    coloured = chosen_instances([instances], _COLOURED, seed)
    name_of = dict(zip(coloured.tolist(), loaded[0].names(coloured), strict=True))
    highlighted = [
        name_of.get(instance, "")
        for endpoint in endpoints
        for instance in ids[endpoint][rows[endpoint]].tolist()
    ]
    plots: list[Block] = []
    for name, project in projections().items():
        maps = {}
        for run in loaded:
            z = torch.cat([run.items[endpoint].z[rows[endpoint]] for endpoint in endpoints])
            maps[run.label] = PlanePoints(project(z.float().numpy(), seed), modalities, highlighted)
        text = (
            f"{name} of {len(modalities)} embeddings of {len(instances)} instances in "
            f"{' and '.join(endpoints)}, by cosine, seed {seed}; {len(coloured)} instances are in "
            "colour. Near points are alike; distances between groups say little."
        )
        plots.append(Plot(f"map-{name.lower()}", name, text, text, partial(embedding_map, maps)))
    return plots
