"""Embeddings in the plane, by other libraries: t-SNE always, UMAP where it is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
from sklearn.manifold import TSNE

__all__ = ["projections"]

Floats = npt.NDArray[np.float32]


def projections() -> dict[str, Callable[[Floats, int], Floats]]:
    """By name, functions of unit vectors (rows, D), at least four, and a seed; places (rows, 2)."""
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
