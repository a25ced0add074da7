"""Data sets by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mxmclr_plugin.data.splits import DataSplits
from mxmclr_plugin.registry import DATASETS, DatasetInfo


def list_datasets() -> list[DatasetInfo]:
    """Lists every registered data set."""
    return list(DATASETS)


def build_dataset(spec: str | Mapping[str, Any]) -> DataSplits:
    """Builds a data set from its configuration.

    Args:
        spec: A name, or a mapping of ``name`` and options.

    Raises:
        ValueError: If the name or an option is unknown, or an option has no such value.
        DataError: If the data cannot be read.

    Examples:
        >>> splits = build_dataset({"name": "primitives", "classes": 8})
        >>> train = splits["train"]
    """
    splits: DataSplits = DATASETS.build(spec)
    return splits
