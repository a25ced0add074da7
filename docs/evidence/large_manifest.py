"""Time and memory of a large manifest: read, drawn from, and continued in the middle of an epoch.

    python docs/evidence/large_manifest.py FOLDER INSTANCES [parquet]

An instance has three English and two German texts of 41 characters; with `parquet` an array of 64
numbers takes the place of a German text, and eight shards hold all. The manifest is written to
FOLDER. Times are CPU times of the process, memory is beyond that of the imports.
Readability of files is remembered in MXMCLR_CACHE, so a second run reads no file at the start.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from mxmclr_plugin.data.batch import collate
from mxmclr_plugin.data.manifest.build import manifest
from mxmclr_plugin.data.sampler import MultifoldSampler

SHARDS, AT_ONCE, BATCH = 8, 512, 256


def rows(instances: int, arrays: bool) -> Iterator[dict[str, Any]]:
    """Rows of a manifest; of 50 instances one each is for validation and test."""
    draw, numbers = random.Random(0), np.random.default_rng(0)
    words = [f"w{k:04}" for k in range(5000)]
    texts = [" ".join(draw.choices(words, k=7)) for _ in range(100_000)]
    for k in range(instances):
        english, german = draw.sample(texts, 3), draw.sample(texts, 1 if arrays else 2)
        split = {0: "val", 1: "test"}.get(k % 50, "train")
        row = {"id": f"p{k}", "split": split, "text:en": english, "text:de": german}
        if arrays:
            buffer = io.BytesIO()
            np.save(buffer, numbers.standard_normal(64, dtype=np.float32))
            row["features"] = [{"bytes": buffer.getvalue(), "path": f"{k}.npy"}]
        yield row


def write(folder: Path, instances: int, arrays: bool) -> Path:
    """The manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    written = rows(instances, arrays)
    if arrays:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.Table.from_pylist(list(rows(1, arrays))).schema
        for shard in range(SHARDS):
            path = folder / f"part-{shard:05}-of-{SHARDS:05}.parquet"
            of_shard = itertools.islice(written, instances // SHARDS)
            with pq.ParquetWriter(path, schema) as file:
                while some := list(itertools.islice(of_shard, AT_ONCE)):
                    file.write_table(pa.Table.from_pylist(some, schema))
        return folder
    path = folder / "large.jsonl"
    with path.open("w") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in written)
    return path


def megabytes(field: str) -> float:
    """A size from the status of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1e3


def seconds() -> float:
    """CPU time of this process and of its workers that have ended."""
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + workers.ru_utime + workers.ru_stime


arrays = sys.argv[3:] == ["parquet"]
path = write(Path(sys.argv[1]), int(sys.argv[2]), arrays)
before, start = megabytes("VmRSS"), seconds()
train = manifest(str(path))["train"]
observations = sum(len(members.rows) for members in train.members.values())
print(f"{observations} observations to train on, read in {seconds() - start:.1f} s")
print(f"memory {megabytes('VmHWM') - before:.0f} MB, afterwards {megabytes('VmRSS') - before:.0f}")

folds = {"en": 2, "features" if arrays else "de": 1}
sampler = MultifoldSampler(train, instances=BATCH, folds=folds)
for what, begin in (("first draw", 0), ("first draw after half an epoch", len(sampler) // 2)):
    sampler.start = (0, begin)
    start = seconds()
    draws = iter(sampler)
    next(draws)
    print(f"{what}: {seconds() - start:.3f} s")
rates = []
for _ in range(5):
    start = seconds()
    rates.append(len(list(itertools.islice(draws, 20_480))) / (seconds() - start))
print(f"draws a second: {max(rates):.0f}")
for workers in (0, 2):
    start = seconds()
    loader = DataLoader(
        train, batch_size=BATCH, sampler=sampler, collate_fn=collate, num_workers=workers
    )
    batches = iter(loader)
    read = sum(1 for _ in itertools.islice(batches, 80))
    del batches
    print(f"{workers} workers: {read * BATCH / (seconds() - start):.0f} instances a second of CPU")
