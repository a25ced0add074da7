"""Measures a finished cell on other data than it was trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.inference.evaluate import evaluate_run
from mxmclr_plugin.inference.run import load_run
from mxmclr_plugin.json_records import plain

__all__ = ["measured_elsewhere"]


def measured_elsewhere(folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Figures of a cell on the test set of other data; computed once and kept in its folder.

    Args:
        folder: Of the cell.
        overrides: What ``run evaluate`` takes: ``data=...``, ``data.category=table``, directions,
            ``towers.a.same_as=en``.

    Returns:
        What :func:`~mxmclr_plugin.inference.evaluate.evaluate_run` returns.

    Raises:
        ConfigError: If the run cannot be measured on them.
    """
    digest = blake2b(json.dumps(list(overrides)).encode(), digest_size=6).hexdigest()
    path = folder / "elsewhere" / f"{digest}.json"
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    measured = plain(evaluate_run(load_run(folder, overrides), "test", progress=False))
    write_atomically(path, json.dumps(measured, indent=1, allow_nan=False) + "\n")
    return dict(measured)
