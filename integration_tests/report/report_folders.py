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


def row(loss, values, difference=None, metric="mean_recall", protocol="same_batches"):
    """A row of the summary; without a difference the key is left out."""
    return {
        "variant": {"loss": loss, "protocol": protocol},
        "metric": metric,
        "mean": sum(values) / len(values) if values else None,
        "std": 0.5 if len(values) > 1 else None,
        "values": {str(seed): value for seed, value in enumerate(values)},
        **({} if difference is None else {"difference": difference}),
    }


def difference(mean, low, high):
    return {
        "baseline": "clip",
        "mean": mean,
        "low": low,
        "high": high,
        "bootstrap": None if low is None else [low, high],
        "p": None if low is None else 0.01,
        "confidence": 0.95,
        "pairs": 2,
    }


def split_metrics(recall):
    directions = {
        name: {
            "query": name[0],
            "gallery": name[2],
            "queries": 10,
            "items": 10,
            "metrics": {"r@1": recall, "chance@1": 10.0},
        }
        for name in ("t2s", "s2t")
    }
    return {"directions": directions}


def run(loss, seed, folder, error=None, protocol="same_batches"):
    record = {
        "variant": {"loss": loss, "protocol": protocol},
        "seed": seed,
        "folder": folder,
        "seconds": 61.0,
        "options": {},
    }
    if error:
        return {**record, "error": error}
    batch = {"instances": 8, "folds": {"text": 4, "voxel": 1}}
    return {**record, "metrics": split_metrics(70.0), "batch": batch}


def comparison(losses=("mxmclr", "clip"), runs=(), rows=(), **changes):
    """A ``compare.json`` with the numbers."""
    return {
        "task": "text2shape",
        "axes": {"loss": list(losses), "protocol": ["same_batches"]},
        "seeds": [0, 1],
        "split": "test",
        "metrics": ["mean_recall"],
        "settings": {"steps": 40, "protocols": {"same_batches": "identical batches"}},
        "versions": VERSIONS,
        "runs": list(runs),
        "summary": list(rows),
        "sentences": ["No difference is shown."],
        "baseline": "clip",
        "trials": [],
        **changes,
    }


def ablation(axes, means, **changes):
    """An ``ablate.json``: a mean for each variant, None where it failed."""
    variants = [dict(zip(axes, map(str, values), strict=True)) for values in means]
    return {
        "task": "text2shape",
        "axes": {axis: list(map(str, values)) for axis, values in axes.items()},
        "seeds": [0],
        "split": "val",
        "metrics": ["mean_recall"],
        "settings": {"steps": 40},
        "versions": VERSIONS,
        "runs": [
            {
                "variant": variant,
                "seed": 0,
                "folder": f"runs/{k}",
                "seconds": 5.0,
                **({"error": "it broke"} if mean is None else {"metrics": split_metrics(mean)}),
            }
            for k, (variant, mean) in enumerate(zip(variants, means.values(), strict=True))
        ],
        "summary": [
            {
                "variant": variant,
                "metric": "mean_recall",
                "mean": mean,
                "std": None,
                "values": {} if mean is None else {"0": mean},
            }
            for variant, mean in zip(variants, means.values(), strict=True)
        ],
        "sentences": ["Highest mean_recall on val."],
        "study": "hybrid",
        "title": "hard weight and soft temperature",
        **changes,
    }


def comparison_of_runs(folder: Path, folders: dict[str, Path]) -> Path:
    """A comparison of real runs, the last of them the baseline, with one more that failed."""
    runs, rows, recalls = [], [], {}
    for loss, source in folders.items():
        shutil.copytree(source, folder / "runs" / loss)
        test = json.loads((source / "metrics.json").read_text())["splits"]["test"]
        firsts = [of["metrics"]["r@1"] for of in test["directions"].values()]
        recalls[loss] = sum(firsts) / len(firsts)
        runs.append({**run(loss, 0, f"runs/{loss}"), "metrics": test})
    *_, baseline = folders
    runs.append(run(baseline, 1, None, error="ConfigError: <b>it broke</b> & more"))
    for loss, recall in recalls.items():
        against = None
        if loss != baseline:
            mean = recall - recalls[baseline]
            against = {**difference(mean, mean - 4, mean + 4), "baseline": baseline}
        rows.append(row(loss, [recall], against))
    content = comparison(list(folders), runs, rows, baseline=baseline)
    return write(folder, "compare.json", content)
