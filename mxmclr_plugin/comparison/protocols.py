"""What is held equal between losses: the batches, the encoders' work, or the instances.

A loss that knows one positive a row is at odds with a batch of many: it can be given the batch as
it is, fewer observations, or more instances. None of these is fair in every respect, so each has a
name that is printed beside the figures. Losses that take many positives have the task's batch in
all three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mxmclr_plugin.experiment.config import BatchConfig

__all__ = ["PROTOCOLS", "Protocol", "batch_overrides"]


@dataclass(frozen=True)
class Protocol:
    """A rule for the batches of a comparison.

    Attributes:
        name: What it is called.
        says: What is equal, and what is not, in one line.
    """

    name: str
    says: str


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "same_batches",
            "identical multifold batches; a loss of one positive a row uses one pairing and takes "
            "the rest as negatives, or leaves it out",
        ),
        Protocol(
            "same_encoder_cost",
            "the same cost of encoding a step; a loss of one positive a row gets more instances, "
            "with one observation of each modality",
        ),
        Protocol(
            "same_instances",
            "the same instances a step; a loss of one positive a row gets one observation of each "
            "modality, and so fewer in all",
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
        positives: How many positives a row the loss knows.
        cost: Of encoding one observation, by modality; 1 where there is none.

    Returns:
        ``key=value``. Validation comes after as many steps as with the task's batch, so that every
        loss has the best of as many.

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
