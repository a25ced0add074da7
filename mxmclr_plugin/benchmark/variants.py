"""The losses that the benchmark compares."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mxmclr_plugin.benchmark.lean_dense import lean_dense_loss
from mxmclr_plugin.loss.arguments import Implementation
from mxmclr_plugin.loss.functional import multifold_hybrid_loss
from mxmclr_plugin.loss.kernels.rows import TILE, default_cache_bytes
from mxmclr_plugin.loss.kernels.triton.suitable import unsuitable

Objective = Literal["hybrid", "hard", "other"]
LossOf = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """What is to be computed.

    Attributes:
        instances: Number of instances.
        folds: Rows of each instance on side 0 and on side 1.
        dim: Columns of the rows.
        ids0: Instance of each row of side 0. Shape: (instances * folds[0],).
        ids1: The same of B.
        temperature: Temperature of the logits.
        soft_temperature: Temperature of the relation, in standard deviations.
        hard_weight: Weight of the hard part.
        cache_bytes: Bytes of tiles that are kept where tiles are kept; None for the default.
    """

    instances: int
    folds: tuple[int, int]
    dim: int
    ids0: Tensor
    ids1: Tensor
    temperature: float
    soft_temperature: float
    hard_weight: float
    cache_bytes: int | None = None


@dataclass(frozen=True)
class Variant:
    """One implementation.

    Attributes:
        name: What it is called.
        objective: ``"hybrid"`` or ``"hard"`` if that is the loss it computes, else ``"other"``.
        build: Makes the loss of two matrices of raw rows.
        units: How many matmuls of n_0 x n_1 x D it takes, if that is known.
        matrices: About how many n_0 x n_1 matrices it holds at its peak.
        unavailable: Why it cannot run here, if so.
        graph: Whether it replays a CUDA graph, which its second call captures.
    """

    name: str
    objective: Objective
    build: Callable[[Problem], LossOf]
    units: Callable[[Problem], float] | None = None
    matrices: float = 0
    unavailable: str | None = None
    graph: bool = False


def variants(device: torch.device) -> list[Variant]:
    """All implementations, those that cannot run on ``device`` with the reason."""
    compiler = None if device.type != "cpu" or _has_compiler() else "no C++ compiler"
    no_gpu = None if device.type == "cuda" else "needs a CUDA device"
    no_triton = no_gpu or unsuitable(device, torch.float32)
    no_inf_cl = no_gpu or (None if _has("inf_cl") else "the package inf_cl is not installed")
    return [
        Variant("dense", "hybrid", _ours("dense"), _dense, matrices=14),
        Variant("lean_dense", "hybrid", _lean, _lean_units, matrices=11),
        Variant("lean_dense_compiled", "hybrid", _compiled(_lean), _lean_units, 11, compiler),
        Variant(
            "lean_dense_graph",
            *("hybrid", _compiled(_lean, graph=True), _lean_units, 11, no_gpu, True),
        ),
        Variant("streaming", "hybrid", _ours("streaming", keep=False), _tiled(False)),
        Variant("streaming_cached", "hybrid", _ours("streaming"), _tiled(True)),
        Variant(
            "triton",
            *("hybrid", _ours("triton", keep=False), _tiled(False)),
            unavailable=no_triton,
        ),
        Variant("triton_cached", "hybrid", _ours("triton"), _tiled(True, 2), unavailable=no_triton),
        Variant("auto", "hybrid", _ours("auto")),
        Variant(
            "auto_compiled",
            *("hybrid", _compiled(_ours("auto")), None),
            matrices=0 if device.type == "cuda" else 14,  # for a compiler on a CPU it is dense
            unavailable=compiler,
        ),
        Variant(
            "auto_graph",
            *("hybrid", _compiled(_ours("auto"), graph=True)),
            unavailable=no_gpu,
            graph=True,
        ),
        Variant("dense_hard", "hard", _ours("dense", 1.0), matrices=9),
        Variant("streaming_hard", "hard", _ours("streaming", 1.0, keep=False)),
        Variant("auto_hard", "hard", _ours("auto", 1.0)),
        Variant("pml_supcon", "hard", _supcon, matrices=40),
        Variant("clip", "other", _clip, matrices=8),
        Variant("lightly_ntxent", "other", _ntxent, matrices=16),
        Variant("mnrl", "other", _mnrl, matrices=6),
        Variant("cached_mnrl", "other", _cached_mnrl, matrices=6),
        Variant("inf_cl", "other", _inf_cl, unavailable=no_inf_cl),
    ]


def _ours(
    impl: Implementation, hard_weight: float | None = None, keep: bool = True
) -> Callable[[Problem], LossOf]:
    def build(problem: Problem) -> LossOf:
        return lambda z0, z1: multifold_hybrid_loss(
            z0,
            z1,
            problem.ids0,
            problem.ids1,
            temperature=problem.temperature,
            soft_temperature=problem.soft_temperature,
            hard_weight=problem.hard_weight if hard_weight is None else hard_weight,
            impl=impl,
            cache_bytes=problem.cache_bytes if keep else 0,
            num_instances=problem.instances,
            validate=False,
        )

    return build


def _lean(problem: Problem) -> LossOf:
    return lambda z0, z1: lean_dense_loss(
        z0,
        z1,
        problem.ids0,
        problem.ids1,
        problem.instances,
        temperature=problem.temperature,
        soft_temperature=problem.soft_temperature,
        hard_weight=problem.hard_weight,
    )


def _compiled(
    build: Callable[[Problem], LossOf], graph: bool = False
) -> Callable[[Problem], LossOf]:
    """The loss as a single graph of torch.compile, and with ``graph`` as CUDA graphs."""
    # What the mode reduce-overhead sets, and an error where it would do without CUDA graphs.
    graphs: dict[str, Any] = {"triton.cudagraphs": True, "triton.cudagraph_or_error": True}

    def build_compiled(problem: Problem) -> LossOf:
        # On machines with CUDA's compiler and no GPU it warns that there is no GPU.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        torch.compiler.reset()  # torch limits the graphs of a function: drop those of other sizes
        loss = build(problem)
        compiled: LossOf = torch.compile(
            loss, fullgraph=True, dynamic=False, options=graphs if graph else None
        )
        return compiled

    return build_compiled


def _supcon(problem: Problem) -> LossOf:
    """SupConLoss with ref_emb, both ways."""
    from pytorch_metric_learning.losses import SupConLoss

    loss = SupConLoss(temperature=problem.temperature)
    ids0, ids1 = problem.ids0, problem.ids1.clone()

    def both_ways(z0: Tensor, z1: Tensor) -> Tensor:
        forward: Tensor = loss(z0, ids0, ref_emb=z1, ref_labels=ids1)
        backward: Tensor = loss(z1, ids1, ref_emb=z0, ref_labels=ids0)
        return (forward + backward) / 2

    return both_ways


def _clip(problem: Problem) -> LossOf:
    """open_clip's ClipLoss in one process: two products, row k of both is a pair."""
    scale, pairs = 1 / problem.temperature, min(len(problem.ids0), len(problem.ids1))
    labels = torch.arange(pairs, device=problem.ids0.device)

    def loss(z0: Tensor, z1: Tensor) -> Tensor:
        z0, z1 = F.normalize(z0[:pairs], dim=1), F.normalize(z1[:pairs], dim=1)
        forward = F.cross_entropy(scale * z0 @ z1.T, labels)
        return (forward + F.cross_entropy(scale * z1 @ z0.T, labels)) / 2

    return loss


def _ntxent(problem: Problem) -> LossOf:
    """NTXentLoss of k-th rows."""
    from lightly.loss import NTXentLoss

    loss, pairs = NTXentLoss(problem.temperature), min(len(problem.ids0), len(problem.ids1))
    return lambda z0, z1: loss(z0[:pairs], z1[:pairs])


def _no_model() -> nn.Module:
    """Stands where a text model would: its features are the embeddings."""
    return nn.Sequential(nn.Identity())


def _mnrl(problem: Problem) -> LossOf:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    loss = MultipleNegativesRankingLoss(_no_model(), scale=1 / problem.temperature)  # type: ignore[arg-type]
    return lambda z0, z1: loss.compute_loss_from_embeddings([z0, z1], problem.ids0)


def _cached_mnrl(problem: Problem) -> LossOf:
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    loss = CachedMultipleNegativesRankingLoss(
        _no_model(),  # type: ignore[arg-type]
        scale=1 / problem.temperature,
        mini_batch_size=TILE,
    )
    return lambda z0, z1: loss(
        [{"sentence_embedding": z0}, {"sentence_embedding": z1}], problem.ids0
    )


def _inf_cl(problem: Problem) -> LossOf:
    from inf_cl import cal_inf_loss

    def loss(z0: Tensor, z1: Tensor) -> Tensor:
        z0, z1 = F.normalize(z0, dim=1), F.normalize(z1, dim=1)
        scale = torch.tensor(1 / problem.temperature, device=z0.device)
        value: Tensor = cal_inf_loss(z0, z1, scale=scale)
        return value

    return loss


def _soft(problem: Problem) -> bool:
    return problem.hard_weight < 1


def _dense(problem: Problem) -> float:
    """Logits and both gradients; on instances a product of each modality for the relation."""
    return 3 + 2 * _soft(problem) / (problem.folds[0] * problem.folds[1])


def _lean_units(problem: Problem) -> float:
    # On instances: the relation, both modalities wide; two products with it.
    return 3 + 4 * _soft(problem) / (problem.folds[0] * problem.folds[1])


def _tiled(keep: bool, itemsize: int = 4) -> Callable[[Problem], float]:
    """Matmuls of tiles; ``itemsize`` is that of logits that are kept."""

    def units(problem: Problem) -> float:
        default = default_cache_bytes(problem.ids0.device)
        cache = default if problem.cache_bytes is None else problem.cache_bytes
        cache = cache if keep else 0
        logits = _kept(len(problem.ids0) * len(problem.ids1), cache, itemsize)
        relation = 2 * (2 - _kept(problem.instances**2, cache, 4))  # both modalities wide
        by_instance = (relation + 2) * _soft(problem) / (problem.folds[0] * problem.folds[1])
        return 4 - logits + by_instance

    return units


def _kept(numbers: float, cache: int, itemsize: int) -> float:
    return min(1.0, cache / (itemsize * numbers))


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
