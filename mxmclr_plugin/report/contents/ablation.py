"""``ablate.json``, read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.report.contents.json_file import JsonValue, read_json

__all__ = ["AblationCell", "AblationContents", "AblationRow", "read_ablation"]


@dataclass(frozen=True)
class AblationCell:
    """A run at one value of each axis; ``error`` is None if it is done."""

    at: Mapping[str, str]
    seed: str
    folder: Path | None
    error: str | None
    seconds: float


@dataclass(frozen=True)
class AblationRow:
    """A measure at one value of each axis, over the seeds."""

    at: Mapping[str, str]
    measure: str
    mean: float | None
    std: float | None
    values: Mapping[str, float]


@dataclass(frozen=True)
class AblationContents:
    """All of it, in the order of the file. ``split`` is the one that was measured."""

    task: str
    study: str
    title: str
    axes: Mapping[str, Sequence[str]]
    measures: Sequence[str]
    split: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    cells: Sequence[AblationCell]
    rows: Sequence[AblationRow]
    sentences: Sequence[str]

    def row(self, at: Mapping[str, str], measure: str) -> AblationRow | None:
        """A row, None if it is not there."""
        return next((r for r in self.rows if r.at == at and r.measure == measure), None)


def read_ablation(file: Path) -> AblationContents:
    """Reads ``ablate.json``.

    Raises:
        ConfigError: If a key is missing or of another type; it names file and key.
    """
    whole = read_json(file)
    axes = {axis: values.words() for axis, values in whole["axes"].items()}
    if len(axes) not in (1, 2) or not all(axes.values()):
        raise ConfigError(f"{file}: axes must be one or two, with values, got {axes}")
    split = whole.get("split")
    return AblationContents(
        task=whole["task"].text(),
        study=whole["study"].text(),
        title=whole["title"].text(),
        axes=axes,
        measures=whole["measures"].texts(),
        split="test" if split.is_null else split.text(),
        settings={key: value.value for key, value in whole["settings"].items()},
        versions={name: value.word() for name, value in whole["versions"].items()},
        cells=[_cell(value, file.parent) for value in whole["cells"]],
        rows=[_row(value) for value in whole["summary"]],
        sentences=whole["sentences"].texts(),
    )


def _cell(value: JsonValue, folder: Path) -> AblationCell:
    failed = value["status"].text() != "done"
    error, of_cell = value.get("error"), value["folder"]
    return AblationCell(
        at=_at(value),
        seed=value["seed"].word(),
        folder=None if of_cell.is_null else folder / of_cell.text(),
        error=(value["status"].text() if error.is_null else error.text()) if failed else None,
        seconds=value["seconds"].number(),
    )


def _row(value: JsonValue) -> AblationRow:
    mean, std = value["mean"], value["std"]
    return AblationRow(
        _at(value),
        value["measure"].text(),
        None if mean.is_null else mean.number(),
        None if std.is_null else std.number(),
        value["values"].numbers(),
    )


def _at(value: JsonValue) -> dict[str, str]:
    return {axis: of_axis.word() for axis, of_axis in value["at"].items()}
