"""Each of a thousand mutated inputs ends in a clear error or a counted skip."""

import numpy as np
import pytest
from data.manifest.mutations import MUTATIONS, Ground

from mxmclr_plugin.data.manifest.build import manifest
from mxmclr_plugin.errors import DataError

OPTIONS = {"size": 16, "resolution": 8, "points": 20}
BATCHES, QUICK = 10, 3


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return Ground(tmp_path_factory.mktemp("ground"))


def outcome(path):
    """What is said about an input; the records that are left can all be read."""
    try:
        data = manifest(str(path), **OPTIONS)
    except DataError as error:
        return [str(error)], []
    for dataset in data.values():
        for k in range(len(dataset)):
            for records in dataset[k].observations.values():
                for record in records:
                    if not isinstance(record, str):
                        assert np.isfinite(record.numpy()).all()
    return [], [f"{p.kind} {p.where} {p.what}" for p in data.problems]


def check(ground, seed):
    path, words = ground.case(seed)
    if (ground.folder / f"case{seed}" / "a.parquet").exists():
        path = ground.folder / f"case{seed}"
    errors, problems = outcome(path)
    said = " ".join([*errors, *problems])
    assert all(len(error.splitlines()) == 1 for error in errors)
    assert len(problems) < 100
    if words is not None:
        assert any(word in said for word in words), (seed, words, said)
    if problems:
        with pytest.raises(DataError) as caught:
            manifest(str(path), on_error="raise", **OPTIONS)
        assert len(str(caught.value).splitlines()) == 1
    assert not ground.marker.exists(), f"case {seed} ran what it read"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "batch",
    [pytest.param(k, marks=[] if k < QUICK else pytest.mark.slow) for k in range(BATCHES)],
)
def test_a_clear_error_or_a_counted_skip(ground, batch):
    for seed in range(batch * 1000 // BATCHES, (batch + 1) * 1000 // BATCHES):
        check(ground, seed)


def test_every_mutation_is_among_them():
    assert {seed % len(MUTATIONS) for seed in range(1000)} == set(range(len(MUTATIONS)))
