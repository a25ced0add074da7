"""Runs that failed, with their errors."""

from __future__ import annotations

from collections.abc import Mapping

from mxmclr_plugin.report.blocks import Block, Details, Table, TableCell

__all__ = ["failed_runs"]

_SHOWN = 6
"""Rows beyond which the table is folded away."""


def failed_runs(errors: Mapping[str, str], runs: int) -> list[Block]:
    """A table of failed runs; nothing if there are none.

    Args:
        errors: What went wrong, by the name of the run.
        runs: How many runs there were, those that did not fail included.
    """
    if not errors:
        return []
    rows = [[TableCell(name), TableCell(error, tone="bad")] for name, error in errors.items()]
    caption = f"{len(errors)} of {runs} runs failed"
    table = Table(caption, ["run", "error"], rows)
    return [table if len(errors) <= _SHOWN else Details(caption, [table])]
