"""What one of several gloo processes does in ``test_sampler_processes.py``."""

from data.multifold_sets import ragged, rows_of
from torch.utils.data import DataLoader

from mxmclr_plugin.data.batch import collate
from mxmclr_plugin.data.sampler import MultifoldSampler

FOLDS = {"text": [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], "vector": [2] * 11}
OPTIONS = {"instances": 2, "folds": {"text": 2, "vector": 1}, "repeats": 2, "seed": 3}


def epochs(sampler):
    """Rows of each batch of epochs 0 and 1, with a loader as a user writes it."""
    loader = DataLoader(
        sampler.dataset,
        batch_size=sampler.instances,
        sampler=sampler,
        collate_fn=collate,
        drop_last=True,
    )
    found = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        assert len(loader) == len(list(loader))
        found.append([rows_of(batch) for batch in loader])
    return found


def sampler_made_here(_):
    sampler = MultifoldSampler(ragged(FOLDS), **OPTIONS)
    return sampler.num_replicas, sampler.rank, epochs(sampler)


def sampler_made_before(sampler):
    found = epochs(sampler)
    return sampler.num_replicas, sampler.rank, found
