"""Time, memory and agreement of retrieval over a large gallery, measured side by side."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

from mxmclr_plugin.benchmark.machine import device_of, free_bytes, synchronize
from mxmclr_plugin.benchmark.peak_memory import peak_extra_bytes
from mxmclr_plugin.bounds import Count, Seed
from mxmclr_plugin.errors import is_out_of_memory
from mxmclr_plugin.retrieval.metrics import retrieval_metrics
from mxmclr_plugin.retrieval.top_k import top_k

Backend = Literal["metrics", "top_k", "full_matrix", "faiss"]
_DEPTHS, _NDCG_AT = (1, 5), 5

_MOST_OF_FAISS_CPU = 1e13
"""Operations beyond which FAISS on a CPU takes minutes."""


@dataclass
class RetrievalBenchmark:
    """What to measure; every key can be given as key=value.

    Attributes:
        queries: Number of queries.
        gallery: Items that are ranked for each.
        dim: Columns of the embeddings.
        fold: Items of an instance, all of which are right for its queries.
        noise: Standard deviation of an embedding about its instance, whose own is 1.
        k: Items that are looked for.
        device: cpu, cuda, ...
        backend: metrics (retrieval_metrics), top_k, full_matrix (torch.topk of all scores), faiss
            (its flat index, on the GPU with faiss-gpu), one or several; all if empty.
        sample: Queries that are checked against every item in float64.
        threads: Threads of torch on a CPU; 0 leaves them as they are.
        seed: Seed of the embeddings.
        json: File for the figures.
    """

    queries: Count = 10_000
    gallery: Count = 50_000
    dim: Count = 256
    fold: Count = 5
    noise: float = 2.0
    k: Count = 10
    device: str = "cpu"
    backend: list[Backend] = field(default_factory=list)
    sample: Count = 64
    threads: Annotated[int, Ge(0)] = 0
    seed: Seed = 0
    json: str = ""


@dataclass(frozen=True)
class MeasuredRetrieval:
    """Figures of one way to search.

    Attributes:
        impl: Its name.
        queries: Number of queries.
        gallery: Number of items.
        dim: Columns.
        k: Items looked for.
        device: Device.
        seconds: Time of one run.
        gflops: The 2 x queries x gallery x dim operations of the product over the time, in 1e9 / s.
        matmul_share: That over the rate of one large product in the same run, in the precision that
            PyTorch is set to.
        peak_extra_bytes: Memory beyond the embeddings; None if it cannot be measured.
        disagreement: On the sampled queries, against every item in float64: for a search the share
            of places with another item, for metrics the largest difference of a figure in points.
        skipped: Why there are no figures.
    """

    impl: str
    queries: int
    gallery: int
    dim: int
    k: int
    device: str
    seconds: float = 0.0
    gflops: float = 0.0
    matmul_share: float = 0.0
    peak_extra_bytes: int | None = None
    disagreement: float = 0.0
    skipped: str | None = None


@dataclass(frozen=True)
class _Task:
    queries: Tensor  # (n, D)
    gallery: Tensor  # (m, D)
    query_ids: Tensor  # (n,)
    gallery_ids: Tensor  # (m,)
    k: int

    def some(self, rows: Tensor) -> _Task:
        return _Task(
            self.queries[rows], self.gallery, self.query_ids[rows], self.gallery_ids, self.k
        )


def measure_retrieval(
    config: RetrievalBenchmark, progress: Callable[[str, float], None] = lambda _what, _share: None
) -> Iterator[MeasuredRetrieval]:
    """Measures every way to search, each once.

    Args:
        config: What to measure.
        progress: Called with what is done now and the share that is done.

    Yields:
        Figures, and for what cannot run the reason.

    Raises:
        ValueError: If a key has a value that cannot be.
    """
    if config.k > config.gallery:
        raise ValueError(f"k must be at most gallery = {config.gallery}, got {config.k}")
    device, chosen = device_of(config.device), config.backend or list(get_args(Backend))
    if config.threads:
        torch.set_num_threads(config.threads)
    progress("embeddings", 0)
    task = _task(config, device)
    sample = torch.linspace(0, config.queries - 1, min(config.sample, config.queries)).long()
    few = task.some(sample.to(device))
    rate = _matmul_rate(task)
    for number, impl in enumerate(chosen):
        progress(impl, number / len(chosen))
        about = (impl, config.queries, config.gallery, config.dim, config.k, str(device))
        reason = _unfit(impl, config, device)
        if reason is not None:
            yield MeasuredRetrieval(*about, skipped=reason)
            continue
        seconds = math.nan

        def run(impl: str = impl) -> None:
            nonlocal seconds
            start = time.perf_counter()
            _run(impl, task)
            synchronize(device)
            seconds = time.perf_counter() - start

        try:
            disagreement = _disagreement(impl, few)  # and libraries are loaded
            peak = peak_extra_bytes(run, device)
            if math.isnan(seconds):
                run()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            yield MeasuredRetrieval(*about, skipped="there is not enough memory")
            continue
        operations = 2 * config.queries * config.gallery * config.dim
        achieved = operations / seconds
        yield MeasuredRetrieval(
            *about, seconds, achieved / 1e9, achieved / rate, peak, disagreement
        )


def _task(config: RetrievalBenchmark, device: torch.device) -> _Task:
    """Embeddings about a centre for each instance; each query's instance is in the gallery."""
    generator = torch.Generator(device).manual_seed(config.seed)
    drawn: Any = {"generator": generator, "device": device}
    gallery_ids = torch.arange(config.gallery, device=device) // config.fold
    instances = int(gallery_ids[-1]) + 1
    query_ids = torch.randint(instances, (config.queries,), **drawn)
    centres = torch.randn(instances, config.dim, **drawn)

    def about(ids: Tensor) -> Tensor:
        noise = torch.randn(len(ids), config.dim, **drawn)
        return noise.mul_(config.noise).add_(centres[ids])

    return _Task(about(query_ids), about(gallery_ids), query_ids, gallery_ids, config.k)


def _unfit(impl: str, config: RetrievalBenchmark, device: torch.device) -> str | None:
    """Why it cannot run, if so."""
    needed = 5 * config.queries * config.gallery
    if impl == "full_matrix" and needed > 0.6 * free_bytes(device):
        return f"needs about {needed / 2**30:.0f} GiB"
    if impl == "faiss":
        if importlib.util.find_spec("faiss") is None:
            return "the package faiss-cpu or faiss-gpu is not installed"
        operations = 2 * config.queries * config.gallery * config.dim
        if operations > _MOST_OF_FAISS_CPU and not _on_gpu(device):
            return "FAISS without a GPU would take minutes"
    return None


def _on_gpu(device: torch.device) -> bool:
    """Whether FAISS searches on a GPU."""
    import faiss

    return device.type == "cuda" and hasattr(faiss, "StandardGpuResources")


def _faiss(queries: Tensor, gallery: Tensor, k: int) -> Tensor:
    """Indices of the best items by FAISS's flat index: (n, k)."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index: Any = faiss.IndexFlatIP(gallery.shape[1])
    if _on_gpu(gallery.device):
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    index.add(gallery.cpu().numpy())
    return torch.from_numpy(index.search(queries.cpu().numpy(), k)[1]).to(gallery.device)


def _matmul_rate(task: _Task) -> float:
    """Operations a second of one large product."""
    rows = 2**11 if task.queries.device.type == "cpu" else 2**13
    queries, gallery = task.queries[:rows], task.gallery[: 4 * rows]
    seconds = math.inf
    for _ in range(4):  # the first loads libraries
        start = time.perf_counter()
        queries @ gallery.T
        synchronize(task.queries.device)
        seconds = min(seconds, time.perf_counter() - start)
    return 2 * len(queries) * gallery.numel() / seconds


def _run(impl: str, task: _Task) -> Tensor | dict[str, float]:
    """Figures, or indices of the best items: (n, k)."""
    if impl == "metrics":
        return retrieval_metrics(
            task.queries,
            task.gallery,
            task.query_ids,
            task.gallery_ids,
            ks=_DEPTHS,
            ndcg_at=_NDCG_AT,
        )
    if impl == "top_k":
        return top_k(task.queries, task.gallery, task.k).indices
    queries, gallery = F.normalize(task.queries, dim=1), F.normalize(task.gallery, dim=1)
    if impl == "faiss":
        return _faiss(queries, gallery, task.k)
    return (queries @ gallery.T).topk(task.k, dim=1).indices


def _disagreement(impl: str, task: _Task) -> float:
    """Of a run of few queries with plain loops over them in float64."""
    dtype = torch.float32 if task.gallery.device.type == "mps" else torch.float64
    found = _run(impl, task)
    units = F.normalize(task.gallery.to(dtype), dim=1)
    other = 0
    figures = dict.fromkeys(("r@1", "r@5", "ndcg@5", "mrr"), 0.0)
    for row, query in enumerate(F.normalize(task.queries.to(dtype), dim=1)):
        order = (units @ query).mul_(2**24).round_().argsort(descending=True, stable=True)
        if isinstance(found, Tensor):
            other += int((order[: task.k] != found[row]).sum())
            continue
        right = (task.gallery_ids == task.query_ids[row])[order].nonzero().flatten() + 1
        places = right.tolist()
        for k in _DEPTHS:
            figures[f"r@{k}"] += places[0] <= k
        figures["mrr"] += 1 / places[0]
        ideal = sum(1 / math.log2(r + 1) for r in range(1, min(len(places), _NDCG_AT) + 1))
        gain = sum(1 / math.log2(r + 1) for r in places if r <= _NDCG_AT)
        figures[f"ndcg@{_NDCG_AT}"] += gain / ideal
    if isinstance(found, Tensor):
        return other / found.numel()
    return max(abs(found[k] - 100 * v / len(task.queries)) for k, v in figures.items())
