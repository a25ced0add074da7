import numpy as np
import pytest
import torch
from oracles.image_text_recall import image_to_text, text_to_image

from mxmclr_plugin.retrieval.cross_modal import cross_modal_metrics, recall_sum
from mxmclr_plugin.retrieval.direction import Direction


def test_rsum_is_the_sum_of_six_recalls():
    generator = np.random.default_rng(3)
    images = generator.normal(size=(30, 5))
    captions = np.repeat(images, 5, axis=0) + generator.normal(size=(150, 5))
    images, captions = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (images, captions))
    ids = torch.arange(30)
    metrics = cross_modal_metrics(
        {"image": torch.from_numpy(images), "text": torch.from_numpy(captions)},
        {"image": ids, "text": ids.repeat_interleave(5)},
        {"i2t": Direction("image", "text"), "t2i": Direction("text", "image")},
        ks=(1, 5, 10),
    )
    expected = sum(
        figure(images, captions, k) for figure in (image_to_text, text_to_image) for k in (1, 5, 10)
    )
    assert recall_sum(metrics) == pytest.approx(expected)


def test_nothing_else_is_added():
    metrics = {"a": {"r@1": 10.0, "r@5": 20.0, "ndcg@5": 99.0, "mrr": 99.0, "chance@1": 1.0}}
    assert recall_sum(metrics) == 30
