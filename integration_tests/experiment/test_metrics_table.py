"""The closing table on a narrow terminal."""

import io

from rich.console import Console

from mxmclr_plugin.experiment.run_folder.metrics import (
    DataRecord,
    DirectionMetrics,
    RunMetrics,
    SplitMetrics,
)
from mxmclr_plugin.experiment.run_folder.metrics_table import metrics_tables


def test_three_kinds_of_recall_fit_eighty_columns():
    names = ("r@1", "r@5", "r@10", "ndcg@5", "mrr", "chance@1", "graded_ndcg@10")
    directions = {
        name: DirectionMetrics(query, gallery, 25000, 25000, dict.fromkeys(names, 100.0))
        for name, query, gallery in (("t2i", "text", "image"), ("i2t", "image", "text"))
    }
    config = {"data": {"name": "coco"}}
    metrics = RunMetrics(
        "coco", "mxmclr", 0, {"test": SplitMetrics(directions, 600.0)}, DataRecord([], 0), config
    )
    out = io.StringIO()
    for table in metrics_tables(metrics):
        Console(file=out, width=80).print(table)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    for name, of in directions.items():
        (row,) = [line for line in lines if line.startswith(f"{name}: {of.query} to {of.gallery}")]
        assert row.split()[4:] == [*["100.00"] * 6, "25000", "25000"]
    assert any("graded_ndcg@10: t2i 100.00, i2t 100.00" in line for line in lines)
