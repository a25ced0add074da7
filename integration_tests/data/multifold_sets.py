"""Small data sets whose records tell where they come from."""

import numpy as np
import torch

from mxmclr_plugin.data.dataset import MultifoldDataset


def ragged(folds, ids=None):
    """A data set of given folds: ``{modality: [fold of each instance]}``.

    Record r of a modality's store is ``tensor([r])``, or the string "r" in the modality "text".
    """
    stores, members = {}, {}
    for modality, of_instances in folds.items():
        ends = np.cumsum(of_instances)
        records = torch.arange(int(ends[-1]))[:, None]
        stores[modality] = [str(r) for r in range(len(records))] if modality == "text" else records
        members[modality] = np.split(np.arange(ends[-1]), ends[:-1])
    size = len(next(iter(folds.values())))
    return MultifoldDataset(stores, members, np.arange(size) if ids is None else ids)


def rows_of(batch):
    """Ids and records of a batch, as plain lists."""
    return {
        modality: (
            batch.ids[modality].tolist(),
            records if isinstance(records, list) else records.tolist(),
        )
        for modality, records in batch.observations.items()
    }
