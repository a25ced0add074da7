"""Memory of a manifest grows by a known number of bytes an observation."""

import json
import random
import tracemalloc

import pytest

from mxmclr_plugin.data.manifest.build import manifest
from mxmclr_plugin.data.sampler import MultifoldSampler
from mxmclr_plugin.experiment.resume import training_set_digest

INSTANCES, TEXTS = 40_000, 5


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    draw = random.Random(0)
    words = [f"w{k:04}" for k in range(5000)]
    path = tmp_path_factory.mktemp("large") / "large.jsonl"
    with path.open("w") as file:
        for k in range(INSTANCES):
            texts = [" ".join(draw.choices(words, k=7)) for _ in range(TEXTS)]
            split = ("val", "test")[k % 2] if k % 50 < 2 else "train"
            row = {"id": f"p{k}", "split": split, "text:en": texts[:3], "text:de": texts[3:]}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.mark.slow
def test_bytes_an_observation(path):
    observations = INSTANCES * TEXTS
    tracemalloc.start()
    try:
        data = manifest(str(path))
        kept, peak = tracemalloc.get_traced_memory()
        train = data["train"]
        tracemalloc.reset_peak()
        training_set_digest(train)
        digest = tracemalloc.get_traced_memory()[1] - kept
        sampler = MultifoldSampler(train, instances=256, folds={"en": 2, "de": 1})
        draws = iter(sampler)
        for _ in range(2 * 256):
            next(draws)
        drawing = tracemalloc.get_traced_memory()[0] - kept
    finally:
        tracemalloc.stop()
    print(peak / observations, kept / observations, drawing / observations, digest / observations)
    # A text of 41 characters takes 49 bytes, its index 8, and the name of an instance 60.
    assert peak / observations < 400
    assert kept / observations < 90
    assert drawing / observations < 40
    assert digest < 2**25
    # All texts are there once, and belong to their instances.
    assert sum(len(of.stores["en"]) for of in [train]) == 3 * INSTANCES
    with path.open() as file:
        row = json.loads(file.readline())
    first = next(of for of in data.values() if "p0" in of.names)
    instance = first[first.names.index("p0")]
    assert list(instance.observations["en"]) == row["text:en"]
