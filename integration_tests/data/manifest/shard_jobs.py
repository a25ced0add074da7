"""What one of several gloo processes does in ``test_shards_processes.py``."""

from torch.utils.data import DataLoader, DistributedSampler

from mxmclr_plugin.data.batch import collate
from mxmclr_plugin.data.manifest.build import manifest
from mxmclr_plugin.data.observations import ObservationDataset, collate_observations
from mxmclr_plugin.data.sampler import MultifoldSampler

EPOCHS = 3


def trained_on(arguments):
    """Per epoch: the instances that this rank saw, by name, with the values of their records."""
    path, instances, workers = arguments
    train = manifest(path)["train"]
    names = _names(train)
    sampler = MultifoldSampler(train, instances=instances, folds={"features": 1, "text": 1}, seed=5)
    loader = DataLoader(
        train,
        batch_size=instances,
        sampler=sampler,
        collate_fn=collate,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    seen = []
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        seen.append([])
        for batch in loader:
            for modality in batch.modalities:
                records = batch.observations[modality]
                values = [int(r) if isinstance(r, str) else int(r[0]) for r in records]
                named = [names[id_] for id_ in batch.ids[modality].tolist()]
                seen[-1] += zip([modality] * len(values), named, values)
    return seen


def evaluated_on(arguments):
    """Position, name and value of each observation that this rank sees, as Lightning deals them."""
    path, workers = arguments
    train = manifest(path)["train"]
    names = _names(train)
    observations = ObservationDataset(train, "features")
    loader = DataLoader(
        observations,
        batch_size=4,
        sampler=DistributedSampler(observations, shuffle=False),
        collate_fn=collate_observations,
        num_workers=workers,
    )
    return [
        row
        for batch in loader
        for row in zip(
            batch.positions.tolist(),
            [names[id_] for id_ in batch.ids.tolist()],
            batch.observations[:, 0].int().tolist(),
        )
    ]


def _names(dataset):
    return {id_: int(name) for id_, name in zip(dataset.ids.tolist(), dataset.names)}
