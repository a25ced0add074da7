"""Folders to report on: made of given numbers, or of small real runs."""

import json
import shutil
from pathlib import Path

VERSIONS = {"python": "3.11", "torch": "2.6"}


def write(folder: Path, name: str, content) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def write_curves(run: Path, scores) -> None:
    (run / "curves").mkdir(parents=True, exist_ok=True)
    lines = ["epoch,step,train/loss,val/mean_recall"]
    for k, score in enumerate(scores):
        lines += [f"{k},{10 * k + 9},{5 - k},", f"{k},{10 * k + 9},,{score}"]
    (run / "curves" / "metrics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def row(loss, values, difference=None, measure="mean_recall", protocol="same_batches"):
    return {
        "protocol": protocol,
        "loss": loss,
        "measure": measure,
        "mean": sum(values) / len(values) if values else None,
        "std": 0.5 if len(values) > 1 else None,
        "values": {str(seed): value for seed, value in enumerate(values)},
        "difference": difference,
    }


def difference(mean, low, high):
    return {"baseline": "clip", "mean": mean, "low": low, "high": high, "confidence": 0.95}


def cell(loss, seed, folder, error=None, protocol="same_batches"):
    return {
        "loss": loss,
        "protocol": protocol,
        "seed": seed,
        "folder": folder,
        "status": "failed" if error else "done",
        "error": error,
        "figures": {},
        "batch": None if error else {"instances": 8, "folds": {"text": 4, "voxel": 1}},
        "options": {},
        "seconds": 61.0,
    }


def comparison(losses=("mxmclr", "clip"), cells=(), rows=(), **changes):
    """A ``compare.json`` of the numbers given."""
    return {
        "task": "text2shape",
        "losses": list(losses),
        "seeds": [0, 1],
        "protocols": ["same_batches"],
        "baseline": "clip",
        "measures": ["mean_recall"],
        "settings": {"steps": 40, "protocols": {"same_batches": "identical batches"}},
        "versions": VERSIONS,
        "tuning": [],
        "cells": list(cells),
        "summary": list(rows),
        "sentences": ["No difference is shown."],
        **changes,
    }


def ablation(axes, means, **changes):
    """An ``ablate.json``: a mean for each point, None where it failed."""
    points = [dict(zip(axes, at, strict=True)) for at in means]
    return {
        "task": "text2shape",
        "study": "hybrid",
        "title": "hard weight and soft temperature",
        "axes": {axis: list(values) for axis, values in axes.items()},
        "measures": ["mean_recall"],
        "split": "val",
        "settings": {"steps": 40},
        "versions": VERSIONS,
        "cells": [
            {
                "at": at,
                "seed": 0,
                "folder": f"cells/{k}",
                "status": "done" if mean is not None else "failed",
                "error": None if mean is not None else "it broke",
                "figures": {},
                "seconds": 5.0,
            }
            for k, (at, mean) in enumerate(zip(points, means.values(), strict=True))
        ],
        "summary": [
            {
                "at": at,
                "measure": "mean_recall",
                "mean": mean,
                "std": None,
                "values": {} if mean is None else {"0": mean},
            }
            for at, mean in zip(points, means.values(), strict=True)
        ],
        "sentences": ["Highest mean_recall on val."],
        **changes,
    }


def comparison_of_runs(folder: Path, runs: dict[str, Path]) -> Path:
    """A comparison of real runs, the last of them the baseline, with one more that failed."""
    cells, rows, scores = [], [], {}
    for loss, run in runs.items():
        shutil.copytree(run, folder / "cells" / loss)
        directions = json.loads((run / "metrics.json").read_text())["splits"]["test"]["directions"]
        firsts = [of["metrics"]["r@1"] for of in directions.values()]
        scores[loss] = sum(firsts) / len(firsts)
        cells.append(cell(loss, 0, f"cells/{loss}"))
    *_, baseline = runs
    cells.append(cell(baseline, 1, None, error="ConfigError: <b>it broke</b> & more"))
    for loss, score in scores.items():
        against = None
        if loss != baseline:
            mean = score - scores[baseline]
            against = {**difference(mean, mean - 4, mean + 4), "baseline": baseline}
        rows.append(row(loss, [score], against))
    content = comparison(list(runs), cells, rows, baseline=baseline)
    return write(folder, "compare.json", content)
