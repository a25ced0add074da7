"""Metrics of a run: computed from embeddings, and the record of ``metrics.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mxmclr_plugin.data.dataset import MultifoldDataset
from mxmclr_plugin.experiment.config.run_config import EvalConfig
from mxmclr_plugin.retrieval.cross_modal import cross_modal_metrics, grouped_metrics, recall_sum
from mxmclr_plugin.retrieval.direction import Direction
from mxmclr_plugin.retrieval.graded import GRADED_AT, Relevance

GRADED = f"graded_ndcg@{GRADED_AT}"
"""Name of the graded metric of a direction, and of its mean over the directions."""


@dataclass(frozen=True)
class DirectionMetrics:
    """Metrics of a direction.

    Attributes:
        query: Modality of the queries, or a list of several that are fused.
        gallery: Modality of the gallery, or a list of several.
        queries: Number of queries.
        items: Number of items in the gallery.
        metrics: Rates in percent by name: ``r@1``, ``ndcg@5``, ``mrr``, ``chance@1``, ...; and
            ``graded_ndcg@10`` where the data have attributes.
    """

    query: Any
    gallery: Any
    queries: float
    items: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class GroupMetrics:
    """Means over groups of instances.

    Attributes:
        size: Instances in a group.
        directions: Means by direction.
        rsum: Mean of RSUM, None if it was not requested.
    """

    size: int
    directions: dict[str, DirectionMetrics]
    rsum: float | None = None


@dataclass(frozen=True)
class SplitMetrics:
    """Metrics of a split.

    Attributes:
        directions: Metrics by direction.
        rsum: Sum of ``r@k`` over all depths and directions, None if it was not requested.
        groups: Means over groups of instances, None if there are none.
    """

    directions: dict[str, DirectionMetrics]
    rsum: float | None = None
    groups: GroupMetrics | None = None

    @property
    def recall(self) -> str:
        """Name of the first ``r@k``."""
        first = next(iter(self.directions.values()))
        return next(name for name in first.metrics if name.startswith("r@"))

    @property
    def mean_recall(self) -> float:
        """Mean over the directions of the first ``r@k``, in percent."""
        firsts = [of.metrics[self.recall] for of in self.directions.values()]
        return sum(firsts) / len(firsts)

    def flat(self) -> dict[str, float]:
        """Means and sums over the directions, then every metric but chance as ``direction/metric``.

        They are ``mean_recall``, ``rsum`` and, where it was measured, the mean of
        ``graded_ndcg@10``.
        """
        graded = [of.metrics[GRADED] for of in self.directions.values() if GRADED in of.metrics]
        return {
            "mean_recall": self.mean_recall,
            "rsum": recall_sum({name: of.metrics for name, of in self.directions.items()}),
            **({GRADED: sum(graded) / len(graded)} if graded else {}),
            **{
                f"{direction}/{name}": value
                for direction, of in self.directions.items()
                for name, value in of.metrics.items()
                if not name.startswith("chance")
            },
        }


@dataclass(frozen=True)
class BatchRecord:
    """Content of a training batch: instances, and observations of each by modality."""

    instances: int
    folds: dict[str, int]


@dataclass(frozen=True)
class TrainingRecord:
    """Length and speed of a training.

    Attributes:
        steps: Optimizer steps.
        seconds: Wall time without validation.
        observations_per_second: Encoded observations, of all processes.
        waiting_for_data: Share of the time spent waiting for data, 0 to 1.
        shares: Shares of the time spent in the other parts of a step: ``transfer`` (of a batch to
            the device), ``towers`` and ``loss`` (forward and backward pass each), ``optimizer`` and
            ``other``.
        gpu_idle: Share of the time in which the GPU was idle, in 20 steps; None unless
            ``trainer.profile`` is set.
        changes: Changes with which the run was resumed.
        skipped_steps: Steps that were left out because they were not finite.
        rows_without_positive: Observations of instances that were in no other modality of their
            batch.
        pairs_without_positive: Pairs of modalities of a batch without a common instance, which
            added nothing to the loss.
        warnings: Sentences about embeddings, temperature or learning rate at the end.
    """

    steps: int
    seconds: float
    observations_per_second: float
    waiting_for_data: float
    shares: dict[str, float] = field(default_factory=dict)
    gpu_idle: float | None = None
    changes: list[str] = field(default_factory=list)
    skipped_steps: int = 0
    rows_without_positive: int = 0
    pairs_without_positive: int = 0
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DataRecord:
    """Facts about the data.

    Attributes:
        notes: Sentences that belong with a result.
        left_out: Number of records that could not be used.
        trained_on: Measured instances with the name of a training instance; None if unknown.
    """

    notes: list[str]
    left_out: int
    trained_on: int | None = None


@dataclass(frozen=True)
class RunMetrics:
    """The record of ``metrics.json``, and of ``evaluate``.

    Attributes:
        task: Name of the task.
        loss: Short name of the loss.
        seed: Seed of the run.
        splits: Metrics by split.
        data: Facts about the data.
        config: The configuration.
        batch: Content of a training batch; None from ``evaluate``.
        best_validation: Highest mean recall on the validation set; None from ``evaluate``.
        train: Length and speed of the training; None from ``evaluate``.
        versions: Versions of the packages.
        checkpoint: The evaluated checkpoint; None from a training.
    """

    task: str
    loss: str
    seed: int
    splits: dict[str, SplitMetrics]
    data: DataRecord
    config: dict[str, Any]
    batch: BatchRecord | None = None
    best_validation: float | None = None
    train: TrainingRecord | None = None
    versions: dict[str, str] = field(default_factory=dict)
    checkpoint: str | None = None


def measure(
    embeddings: Mapping[str, Tensor],
    ids: Mapping[str, Tensor],
    directions: Mapping[str, Direction],
    evaluation: EvalConfig,
    *,
    groups: bool = False,
    relevance: Relevance | None = None,
    progress: bool = False,
    distributed: bool = False,
) -> SplitMetrics:
    """Compute the metrics that a configuration requests.

    Args:
        embeddings: Embeddings by modality, an instance's rows in the order of its observations.
            Shape: (rows, D).
        ids: Instance of each row, by modality. Shape: (rows,).
        directions: Directions by name.
        evaluation: The metrics.
        groups: Whether groups of instances are measured as well, if ``group_size`` is set and the
            instances fill one.
        relevance: How relevant instances are to each other, for the graded metric.
        progress: Whether to show a progress bar on a terminal.
        distributed: Whether the processes of the default group divide the queries.

    Raises:
        ValueError: If a modality is missing, or items cannot be ranked.
    """
    options: dict[str, Any] = {
        "fuse": evaluation.fuse,
        "ks": evaluation.ks,
        "ndcg_at": evaluation.ndcg_at,
    }
    of_all = cross_modal_metrics(
        embeddings,
        ids,
        directions,
        **options,
        relevance=relevance,
        progress=progress,
        distributed=distributed,
    )
    first = next(iter(directions.values())).modalities[0]
    size = evaluation.group_size
    of_groups = None
    if groups and size is not None and len(ids[first].unique()) >= size:
        means = grouped_metrics(
            embeddings, ids, directions, size, **options, distributed=distributed
        )
        of_groups = GroupMetrics(size, _records(means, directions), _rsum(means, evaluation))
    return SplitMetrics(_records(of_all, directions), _rsum(of_all, evaluation), of_groups)


def relevance_of(dataset: MultifoldDataset) -> Relevance | None:
    """How relevant instances are to each other by their attributes; None if they have none."""
    if not dataset.attributes:
        return None
    return Relevance.of_attributes(dataset.ids.tolist(), dataset.attributes)


def graded_note(relevance: Relevance) -> str:
    """Who defines the relevance, for the notes of a result."""
    return (
        f"{GRADED}: relevance is {relevance.source}, from the data and not from a model; items of "
        "the query's own instance are left out"
    )


def _rsum(metrics: Mapping[str, Mapping[str, float]], evaluation: EvalConfig) -> float | None:
    return recall_sum(metrics) if evaluation.rsum else None


def _records(
    metrics: Mapping[str, Mapping[str, float]], directions: Mapping[str, Direction]
) -> dict[str, DirectionMetrics]:
    return {
        name: DirectionMetrics(
            directions[name].query,
            directions[name].gallery,
            of["queries"],
            of["gallery"],
            {key: value for key, value in of.items() if key not in ("queries", "gallery")},
        )
        for name, of in metrics.items()
    }
