"""The library's trainers take the step that the formula says, and its testers run with them."""

import pytest
import torch
from oracles.hybrid_loss import loop_loss, loop_rows
from pytorch_metric_learning import miners, testers, trainers
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch import nn
from torch.utils.data import TensorDataset

from mxmclr_plugin import retrieval_metrics
from mxmclr_plugin.integrations.pytorch_metric_learning import MultifoldHybridLoss

ROWS, WIDTH = 12, 6
CPU = {"data_device": torch.device("cpu"), "dtype": torch.float64, "dataloader_num_workers": 0}


def rows(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)


LABELS = torch.arange(ROWS) % 4


def step(trainer_class, *columns, models=None, losses=None, **options):
    """What one step of the trainer subtracts from the weights of a linear trunk; the trunk."""
    torch.manual_seed(0)
    trunk = nn.Linear(WIDTH, 5, bias=False).double()
    start = trunk.weight.detach().clone()
    trainer = trainer_class(
        models={"trunk": trunk, **(models or {})},
        optimizers={"trunk_optimizer": torch.optim.SGD(trunk.parameters(), 1.0)},
        batch_size=ROWS,
        loss_funcs=losses or {"metric_loss": MultifoldHybridLoss()},
        dataset=TensorDataset(*columns),
        iterations_per_epoch=1,
        **CPU,
        **options,
    )
    trainer.train()
    taken = start - trunk.weight.detach()
    with torch.no_grad():
        trunk.weight.copy_(start)
    return taken, trunk


def assert_gradient(taken, trunk, loss):
    (gradient,) = torch.autograd.grad(loss, [trunk.weight])
    torch.testing.assert_close(taken, gradient, rtol=1e-8, atol=1e-10)
    assert gradient.norm() > 1e-3


def test_metric_loss_only():
    taken, trunk = step(trainers.MetricLossOnly, rows(0), LABELS)
    assert_gradient(taken, trunk, loop_loss(trunk(rows(0)), None, LABELS)[0])


def test_metric_loss_only_with_a_miner():
    mining = {"tuple_miner": miners.MultiSimilarityMiner(epsilon=1.0)}
    taken, trunk = step(trainers.MetricLossOnly, rows(0), LABELS, mining_funcs=mining)
    z = trunk(rows(0))
    a1, p, a2, n = (x.tolist() for x in mining["tuple_miner"](z, LABELS))
    positive = {*zip(a1, p)}
    # Every row is in a positive pair, so that the instances are those of the labels.
    assert {u for pair in positive for u in pair} == {*range(ROWS)}
    y = LABELS.tolist()
    parts = loop_rows(z, z, y, y, positive | {*zip(a2, n)}, positive)
    assert_gradient(taken, trunk, hybrid(parts))


def hybrid(parts):
    hard, soft = (sum(losses.values()) / len(losses) for losses in parts)
    return 0.7 * hard + 0.3 * soft


def test_two_streams():
    taken, trunk = step(
        trainers.TwoStreamMetricLoss,
        rows(0),
        rows(1),
        LABELS,
        data_and_label_getter=lambda batch: batch,
    )
    z = trunk(torch.cat((rows(0), rows(1))))
    y = LABELS.tolist() * 2
    # Anchors are the first stream, what they are compared with is the second.
    kept = {(u, ROWS + v) for u in range(ROWS) for v in range(ROWS)}
    parts = loop_rows(z, z, y, y, kept, {(u, v) for u, v in kept if y[u] == y[v]})
    assert_gradient(taken, trunk, hybrid(parts))


def test_with_a_classifier():
    classifier = nn.Linear(5, 4).double()
    taken, trunk = step(
        trainers.TrainWithClassifier,
        rows(0),
        LABELS,
        models={"classifier": classifier},
        losses={
            "metric_loss": MultifoldHybridLoss(),
            "classifier_loss": nn.CrossEntropyLoss(),
        },
        loss_weights={"metric_loss": 0.5, "classifier_loss": 2.0},
    )
    z = trunk(rows(0))
    classified = nn.functional.cross_entropy(classifier(z), LABELS)
    assert_gradient(taken, trunk, 0.5 * loop_loss(z, None, LABELS)[0] + 2 * classified)


def test_cascaded_embeddings():
    taken, trunk = step(
        trainers.CascadedEmbeddings,
        rows(0),
        LABELS,
        losses={f"metric_loss_{k}": MultifoldHybridLoss() for k in range(2)},
        embedding_sizes=[2, 3],
    )
    z = trunk(rows(0))
    expected = sum(loop_loss(part, None, LABELS)[0] for part in (z[:, :2], z[:, 2:]))
    assert_gradient(taken, trunk, expected)


@pytest.mark.parametrize("two_streams", [False, True])
def test_testers_at_the_end_of_an_epoch(two_streams):
    """What they measure of the trained trunk is what `retrieval_metrics` does."""
    pytest.importorskip("faiss")
    streams = [rows(0), rows(0) + 0.9 * rows(1)][: 1 + two_streams]
    kind = "GlobalTwoStreamEmbeddingSpaceTester" if two_streams else "GlobalEmbeddingSpaceTester"
    getter = {"data_and_label_getter": lambda batch: batch}
    tester = getattr(testers, kind)(
        accuracy_calculator=AccuracyCalculator(include=("precision_at_1",), k=1), **CPU, **getter
    )
    found = []

    def end_of_epoch(trainer):
        trunk = trainer.models["trunk"]
        figures = tester.test({"val": trainer.dataset}, trainer.epoch, trunk)
        with torch.no_grad():
            queries, *others = [trunk(stream) for stream in streams]
        if others:
            ours = retrieval_metrics(queries, others[0], LABELS, LABELS)["r@1"]
        else:
            similarity = nn.functional.normalize(queries) @ nn.functional.normalize(queries).T
            nearest = similarity.fill_diagonal_(-2).argmax(dim=1)
            ours = 100 * (LABELS[nearest] == LABELS).double().mean().item()
        found.append((100 * figures["val"]["precision_at_1_level0"], ours))

    name = "TwoStreamMetricLoss" if two_streams else "MetricLossOnly"
    step(
        getattr(trainers, name),
        *streams,
        LABELS,
        end_of_epoch_hook=end_of_epoch,
        **(getter if two_streams else {}),
    )
    ((theirs, ours),) = found
    assert theirs == pytest.approx(ours, abs=1e-4)
    assert 0 < theirs < 100
