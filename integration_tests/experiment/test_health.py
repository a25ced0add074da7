import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mxmclr_plugin.experiment.training.health import (
    alignment,
    effective_rank,
    solved_share,
    uniformity,
    warnings_of,
)


def unit_rows(seed, rows, width=5):
    z = np.random.default_rng(seed).normal(size=(rows, width))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def batch(seed, rows0, rows1):
    generator = np.random.default_rng(seed + 1)
    z = unit_rows(seed, rows0), unit_rows(seed + 2, rows1)
    return *z, generator.integers(0, 3, rows0), generator.integers(0, 3, rows1)


def tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


@given(st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 7))
def test_alignment_and_solved_share_are_those_of_loops(seed, rows0, rows1):
    z0, z1, ids0, ids1 = batch(seed, rows0, rows1)
    distances, solved = [], []
    for a, i in zip(z0, ids0):
        positives = [float(a @ b) for b, j in zip(z1, ids1) if i == j]
        negatives = [float(a @ b) for b, j in zip(z1, ids1) if i != j]
        distances += [np.sum((a - b) ** 2) for b, j in zip(z1, ids1) if i == j]
        if positives and negatives:
            solved.append(min(positives) > max(negatives))
    arguments = tensors(z0, z1, ids0, ids1)
    expected = np.mean(distances) if distances else math.nan
    assert float(alignment(*arguments)) == pytest.approx(expected, nan_ok=True)
    expected = np.mean(solved) if solved else math.nan
    assert float(solved_share(*arguments)) == pytest.approx(expected, nan_ok=True)


@given(st.integers(0, 10_000), st.integers(2, 7))
def test_uniformity_and_effective_rank_are_those_of_loops(seed, rows):
    z = unit_rows(seed, rows)
    potentials = [
        math.exp(-2 * np.sum((z[i] - z[j]) ** 2)) for i in range(rows) for j in range(i + 1, rows)
    ]
    assert float(uniformity(torch.from_numpy(z))) == pytest.approx(math.log(np.mean(potentials)))
    values = np.sqrt(np.clip(np.linalg.eigvalsh(z @ z.T), 0, None))
    shares = values / values.sum()
    entropy = -sum(p * math.log(p) for p in shares if p > 0)
    expected = pytest.approx(math.exp(entropy), rel=1e-4)
    assert float(effective_rank(torch.from_numpy(z))) == expected


def test_equal_rows_have_rank_one_and_no_uniformity():
    z = torch.nn.functional.normalize(torch.ones(6, 4), dim=1)
    assert float(effective_rank(z)) == pytest.approx(1)
    assert float(uniformity(z)) == pytest.approx(0, abs=1e-6)


GOOD = torch.from_numpy(unit_rows(0, 8)).float()
EQUAL = GOOD[:1].expand(8, -1)


@pytest.mark.parametrize(
    ("z", "lr", "temperature", "words"),
    [
        ({"a": EQUAL, "b": EQUAL}, 0.1, 0.1, "all embeddings are equal (collapse)"),
        ({"a": GOOD, "b": EQUAL}, 0.1, 0.1, "the embeddings of b are all equal"),
        ({"a": GOOD, "b": 0 * GOOD}, 0.1, 0.1, "the embeddings of b are all zero"),
        ({"a": GOOD, "b": GOOD}, 0.0, 0.1, "optimizer.lr is 0"),
        ({"a": GOOD, "b": GOOD}, 0.1, 1e-30, "temperature 1e-30 is too small"),
        ({"a": GOOD, "b": GOOD}, 0.1, 50.0, "temperature 50 is too large"),
    ],
)
def test_what_stops_a_training_from_learning_is_said(z, lr, temperature, words):
    (sentence,) = warnings_of(z, lr, temperature)
    assert words in sentence


def test_nothing_is_said_of_a_training_that_learns():
    assert warnings_of({"a": GOOD, "b": GOOD}, 0.1, None) == []
