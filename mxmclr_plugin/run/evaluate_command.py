"""``evaluate`` of the command line."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from mxmclr_plugin.experiment.metrics_table import metrics_tables
from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.inference.evaluate import evaluate_run
from mxmclr_plugin.json_records import json_text
from mxmclr_plugin.run.arguments import new_path, run_arguments

__all__ = ["evaluate_command"]


def evaluate_command(arguments: Sequence[str], console: Console) -> int:
    """Runs ``evaluate ckpt=RUN [split=test] [out=FILE] [data=...] [eval.KEY=...]``.

    Args:
        arguments: What stands behind ``evaluate``.
        console: Where to write.

    Returns:
        The exit status, 0.

    Raises:
        ConfigError: If an argument is unknown or missing, or the run cannot be measured so.
    """
    given = run_arguments("evaluate", arguments, {"split": "test", "out": ""})
    out = new_path("out", given.own["out"]) if given.own["out"] else None
    trained = given.load(console)
    metrics = evaluate_run(trained, given.own["split"])
    for table in metrics_tables(metrics):
        console.print(table)
    size = trained.config.eval.group_size
    if size is not None and all(of.groups is None for of in metrics.splits.values()):
        console.print(f"the split has fewer instances than a group of {size}", highlight=False)
    if known := metrics.data.trained_on:
        console.print(
            f"{known} of the {len(trained.split(given.own['split']))} instances measured were "
            "trained on",
            highlight=False,
        )
    for note in trained.data.notes:
        console.print(escape(note), highlight=False)
    if trained.data.problems:
        console.print(f"{len(trained.data.problems)} things of the data set were left out")
    if out is not None:
        write_atomically(out, json_text(metrics))
        console.print(f"written to {escape(str(out))}", highlight=False, soft_wrap=True)
    return 0
