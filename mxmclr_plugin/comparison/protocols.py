"""Protocols of a comparison: equal batches, equal encoder cost, or equal instances.

A loss that accepts one positive per row does not fit a batch of many observations per instance: it
can get the batch as it is, fewer observations, or more instances. None of these is fair in every
respect, so each has a name that is printed beside the results. Losses that accept many positives
have the task's batch in all three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mxmclr_plugin.experiment.config.run_config import BatchConfig


@dataclass(frozen=True)
class Protocol:
    """A rule for the batches of a comparison.

    Attributes:
        name: Its name.
        says: One line on what is equal and what is not.
    """

    name: str
    says: str


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "same_batches",
            "identical multifold batches; a loss of one positive per row uses one pairing and "
            "takes the rest as negatives, or leaves it out",
        ),
        Protocol(
            "same_encoder_cost",
            "the same encoder cost per step; a loss of one positive per row gets more instances, "
            "with one observation of each modality",
        ),
        Protocol(
            "same_instances",
            "the same instances per step; a loss of one positive per row gets one observation of "
            "each modality, so fewer in all",
        ),
    )
}
"""Protocols by name."""


def batch_overrides(
    protocol: str,
    batch: BatchConfig,
    positives: Literal["one", "many"],
    cost: Mapping[str, float],
) -> list[str]:
    """Changes to a task's batch for a loss under a protocol.

    Args:
        protocol: Name of the protocol.
        batch: The task's batch.
        positives: How many positives per row the loss accepts.
        cost: Cost of encoding one observation, by modality; 1 by default.

    Returns:
        ``key=value``. All losses are validated after the same numbers of steps.

    Raises:
        ValueError: If all modalities cost nothing.
    """
    if positives == "many":
        return []
    if protocol == "same_batches":
        return ["batch.multifold_for_all_losses=true"]
    ones = [f"batch.folds.{modality}=1" for modality in batch.folds]
    if protocol == "same_instances":
        return ones
    assert batch.instances is not None  # the caller asks for it
    costs = {modality: cost.get(modality, 1.0) for modality in batch.folds}
    if sum(costs.values()) <= 0:
        raise ValueError("encoder_cost: one of the modalities must cost something")
    multifold = sum(costs[modality] * fold for modality, fold in batch.folds.items())
    ratio = multifold / sum(costs.values())
    return [
        *ones,
        f"batch.instances={round(batch.instances * ratio)}",
        f"batch.repeats={max(1, round((batch.repeats or 1) * ratio))}",
    ]
