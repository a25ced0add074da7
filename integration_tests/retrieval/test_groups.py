import numpy as np
import pytest
import torch
from oracles.image_text_recall import image_to_text, over_groups, text_to_image

from mxmclr_plugin.retrieval.cross_modal import cross_modal_metrics, grouped_metrics
from mxmclr_plugin.retrieval.direction import Direction

DIRECTIONS = {"i2t": Direction("image", "text"), "t2i": Direction("text", "image")}


def photos(count=47, dim=6, seed=0):
    """Unit vectors of photos and of five captions each, near their photo."""
    generator = np.random.default_rng(seed)
    images = generator.normal(size=(count, dim))
    captions = np.repeat(images, 5, axis=0) + 0.8 * generator.normal(size=(5 * count, dim))
    images, captions = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (images, captions))
    # Ids that say nothing about the order.
    ids = torch.from_numpy(generator.permutation(count))
    return images, captions, {"image": ids, "text": ids.repeat_interleave(5)}


@pytest.mark.parametrize("size", [1, 10, 23, 47])
def test_agrees_with_the_literatures_definition(size):
    images, captions, ids = photos()
    embeddings = {"image": torch.from_numpy(images), "text": torch.from_numpy(captions)}
    metrics = grouped_metrics(embeddings, ids, DIRECTIONS, size, ks=(1, 5, 10))
    for k in (1, 5, 10):
        expected = over_groups(image_to_text, images, captions, k, size)
        assert metrics["i2t"][f"r@{k}"] == pytest.approx(expected)
        expected = over_groups(text_to_image, images, captions, k, size)
        assert metrics["t2i"][f"r@{k}"] == pytest.approx(expected)
    assert metrics["i2t"]["chance@1"] == pytest.approx(100 / size)
    assert (metrics["t2i"]["queries"], metrics["t2i"]["gallery"]) == (5 * size, size)


def test_the_whole_is_a_group():
    images, captions, ids = photos()
    embeddings = {"image": torch.from_numpy(images), "text": torch.from_numpy(captions)}
    whole = cross_modal_metrics(embeddings, ids, DIRECTIONS)
    grouped = grouped_metrics(embeddings, ids, DIRECTIONS, 47)
    for direction, metrics in whole.items():
        assert grouped[direction] == pytest.approx(metrics)


def test_captions_may_come_in_any_order():
    images, captions, ids = photos()
    embeddings = {"image": torch.from_numpy(images), "text": torch.from_numpy(captions)}
    expected = grouped_metrics(embeddings, ids, DIRECTIONS, 10)
    order = torch.randperm(len(captions), generator=torch.Generator().manual_seed(1))
    metrics = grouped_metrics(
        {**embeddings, "text": embeddings["text"][order]},
        {**ids, "text": ids["text"][order]},
        DIRECTIONS,
        10,
    )
    for direction in DIRECTIONS:
        assert metrics[direction] == pytest.approx(expected[direction])


@pytest.mark.parametrize("size", [0, -1, 48])
def test_a_size_that_cannot_be(size):
    images, captions, ids = photos()
    embeddings = {"image": torch.from_numpy(images), "text": torch.from_numpy(captions)}
    with pytest.raises(ValueError, match=f"a group is of 1 to 47 instances, got {size}"):
        grouped_metrics(embeddings, ids, DIRECTIONS, size)
