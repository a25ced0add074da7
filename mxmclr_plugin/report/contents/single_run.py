"""``metrics.json`` of a run, read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmclr_plugin.report.contents.json_file import read_json

__all__ = ["RunContents", "read_run"]


@dataclass(frozen=True)
class RunContents:
    """A run.

    Attributes:
        figures: By split (and groups of a split), then by direction.
        facts: What else is to be told: steps, seconds, batch.
        notes: Sentences that belong to the data.
    """

    folder: Path
    task: str
    loss: str
    seed: str
    figures: Mapping[str, Mapping[str, Mapping[str, float]]]
    facts: Mapping[str, Any]
    versions: Mapping[str, str]
    notes: Sequence[str]


def read_run(folder: Path) -> RunContents:
    """Reads ``metrics.json`` of a run.

    Raises:
        ConfigError: If a key is missing or of another type; it names file and key.
    """
    whole = read_json(folder / "metrics.json")
    train = whole["train"].numbers()
    facts: dict[str, Any] = {
        "steps": int(train.get("steps", 0)),
        "seconds": train.get("seconds", 0.0),
        "batch": whole["batch"].value,
    }
    return RunContents(
        folder,
        whole["task"].text(),
        whole["loss"].text(),
        whole["seed"].word(),
        {
            split: {name: of["metrics"].numbers() for name, of in value["directions"].items()}
            for split, value in whole["splits"].items()
        },
        facts,
        {name: value.word() for name, value in whole["versions"].items()},
        whole["data"]["notes"].texts(),
    )
