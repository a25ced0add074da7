"""``evaluate`` of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.json_records import json_text
from mxmclr_plugin.run.command import Context, loaded_run, new_path, print_data_notes
from mxmclr_plugin.safe_text import print_line


@dataclass
class EvaluateArguments:
    """Arguments of ``evaluate``.

    Attributes:
        ckpt: Folder of a run, or a checkpoint in it.
        split: Split that is evaluated.
        out: New JSON file for the metrics.
        trust: Whether the run's configuration may name code that is not registered.
    """

    ckpt: Path
    split: str = "test"
    out: Path | None = None
    trust: bool = False


def evaluate_command(arguments: EvaluateArguments, context: Context) -> int:
    """Prints the metrics of a run on a split; returns 0.

    Raises:
        ConfigError: If the run cannot be evaluated on these data.
    """
    from mxmclr_plugin.experiment.run_folder.metrics_table import metrics_tables
    from mxmclr_plugin.inference.evaluate import evaluate_run

    console, out = context.console, arguments.out and new_path("out", arguments.out)
    run = loaded_run(arguments.ckpt, arguments.trust, context)
    metrics = evaluate_run(run, arguments.split)
    for table in metrics_tables(metrics):
        console.print(table)
    size = run.config.eval.group_size
    if size is not None and all(of.groups is None for of in metrics.splits.values()):
        print_line(console, f"the split has fewer instances than a group of {size}")
    if known := metrics.data.trained_on:
        total = len(run.split(arguments.split))
        print_line(console, f"{known} of the {total} instances measured were trained on")
    print_data_notes(console, metrics.data.notes, metrics.data.left_out)
    if out is not None:
        write_atomically(out, json_text(metrics))
        print_line(console, f"written to {out}")
    return 0
