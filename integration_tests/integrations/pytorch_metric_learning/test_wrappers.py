import pytest
import torch
from oracles.hybrid_loss import loop_loss, loop_rows
from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.utils import distributed as host_distributed
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu

from mxmclr_plugin.integrations.pytorch_metric_learning import (
    CrossBatchMemory,
    DistributedLossWrapper,
    MultifoldHybridLoss,
    SelfSupervisedLoss,
    open_host_wrappers,
)


def batch(n, seed, instances=4):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    return z, torch.randint(0, instances, (n,), generator=generator)


def mean(losses):
    return sum(losses.values()) / len(losses)


WRAPPERS = [
    (CrossBatchMemory, losses.CrossBatchMemory, {"embedding_size": 6}),
    (SelfSupervisedLoss, losses.SelfSupervisedLoss, {}),
]


@pytest.mark.parametrize(("ours", "theirs", "options"), WRAPPERS)
def test_allowlists_are_extended_by_our_loss_alone(ours, theirs, options):
    assert ours(MultifoldHybridLoss(), **options).loss.temperature == 0.07
    assert "MultifoldHybridLoss" in ours.supported_losses()
    ours(TripletMarginLoss(), **options)
    for wrapper in (ours, theirs):
        with pytest.raises(Exception, match="not supported for ArcFaceLoss"):
            wrapper(losses.ArcFaceLoss(3, 6), **options)


@pytest.fixture
def _opened(monkeypatch):
    for _, theirs, _ in WRAPPERS:
        monkeypatch.setattr(theirs, "supported_losses", staticmethod(theirs.supported_losses))
    memory = losses.CrossBatchMemory
    monkeypatch.setattr(memory, "create_indices_tuple", memory.create_indices_tuple)
    open_host_wrappers()
    open_host_wrappers()


@pytest.mark.usefixtures("_opened")
def test_the_librarys_own_memory_gives_our_values():
    torch.manual_seed(0)
    miner = miners.MultiSimilarityMiner()
    for options in ({}, {"miner": miner}):
        ours, theirs = (
            wrapper(MultifoldHybridLoss(), embedding_size=6, memory_size=13, **options)
            for wrapper in (CrossBatchMemory, losses.CrossBatchMemory)
        )
        for seed in range(4):
            z, labels = batch(8, seed)
            value = theirs(z, labels)
            torch.testing.assert_close(value, ours(z, labels))
            assert value > 0
    plain = losses.CrossBatchMemory(TripletMarginLoss(), embedding_size=6, memory_size=13)
    assert plain(*batch(8, 0)) > 0


@pytest.mark.usefixtures("_opened")
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_librarys_own_self_supervised_loss_gives_our_values(symmetric):
    z0, z1 = batch(7, 0)[0], batch(7, 1)[0]
    values = [
        wrapper(MultifoldHybridLoss(), symmetric=symmetric)(z0, z1)
        for wrapper in (SelfSupervisedLoss, losses.SelfSupervisedLoss)
    ]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("miner", [None, miners.TripletMarginMiner(margin=0.5)])
def test_a_memory_of_the_size_of_the_batch_is_the_loss_itself(miner):
    loss = MultifoldHybridLoss()
    memory = CrossBatchMemory(loss, embedding_size=6, memory_size=16, miner=miner)
    for seed in range(3):
        z, labels = batch(16, seed)
        pairs = None if miner is None else miner(z, labels)
        torch.testing.assert_close(memory(z, labels), loss(z, labels, pairs))


def test_rows_in_memory_are_references_of_their_instances():
    memory = CrossBatchMemory(MultifoldHybridLoss(), embedding_size=6, memory_size=12)
    batches = [batch(5, seed) for seed in range(3)]
    for z, labels in batches[:2]:
        memory(z, labels)
    z, labels = batches[2]
    loss = memory(z, labels)

    # 15 rows went through a memory of 12: the last 3 lie where the first 3 were.
    past = torch.cat([x for x, _ in batches]).detach()
    past_labels = torch.cat([y for _, y in batches])
    order = [12, 13, 14, *range(3, 12)]
    own = {u: order.index(10 + u) for u in range(5)}
    kept = {(u, v) for u in range(5) for v in range(12) if v != own[u]}
    y, y_past = labels.tolist(), past_labels[order].tolist()
    positive = {(u, v) for u, v in kept if y[u] == y_past[v]}
    hard, soft = loop_rows(z, past[order], y, y_past, kept, positive)
    expected = 0.7 * mean(hard) + 0.3 * mean(soft)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, z), torch.autograd.grad(expected, z))


class FindsNothing(torch.nn.Module):
    def forward(self, embeddings, labels, ref_emb, ref_labels):
        return (torch.empty(0, dtype=torch.long),) * 4


@pytest.mark.parametrize("as_triplets", [False, True])
def test_pairs_given_to_the_memory_are_pairs_of_the_batch(as_triplets):
    # An inner miner that finds nothing leaves what is given alone.
    memory = CrossBatchMemory(
        MultifoldHybridLoss(hard_weight=1.0),
        embedding_size=6,
        memory_size=13,
        miner=FindsNothing(),
    )
    for seed in range(4):
        z, labels = batch(8, seed)
        given = miners.TripletMarginMiner(margin=0.5)(z, labels)
        given = given if as_triplets else lmu.convert_to_pairs(given, labels)
        expected = MultifoldHybridLoss(hard_weight=1.0)(
            z, labels, given, z.detach(), labels.clone()
        )
        assert expected > 0
        torch.testing.assert_close(memory(z, labels, given), expected)


@pytest.mark.parametrize("symmetric", [True, False])
def test_self_supervised(symmetric):
    z0, z1 = batch(7, 0)[0], batch(7, 1)[0]
    loss = SelfSupervisedLoss(MultifoldHybridLoss(), symmetric=symmetric)(z0, z1)
    labels = torch.arange(7)
    if symmetric:
        expected = loop_loss(torch.cat((z0, z1)), None, torch.cat((labels, labels)))[0]
    else:
        expected = MultifoldHybridLoss()(z0, labels, ref_emb=z1, ref_labels=labels)
    assert loss > 0
    torch.testing.assert_close(loss, expected)


def test_the_distributed_wrapper_refuses_what_would_be_wrong():
    with pytest.raises(ValueError, match="efficient=True gives the rows of other processes no"):
        DistributedLossWrapper(MultifoldHybridLoss(), efficient=True)
    with pytest.raises(TypeError):
        DistributedLossWrapper(torch.nn.MSELoss())


@pytest.mark.parametrize(
    "wrapper", [host_distributed.DistributedLossWrapper, DistributedLossWrapper]
)
def test_the_distributed_wrappers_do_nothing_in_one_process(wrapper):
    z, labels = batch(8, 0)
    with pytest.warns(UserWarning, match="non-distributed"):
        loss = wrapper(MultifoldHybridLoss())(z, labels)
    assert torch.equal(loss, MultifoldHybridLoss()(z, labels))
