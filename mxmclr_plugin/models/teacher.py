"""A teacher beside the towers: features of a frozen encoder that give the soft relation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mxmclr_plugin.data.augmented_store import AugmentedStore
from mxmclr_plugin.data.dataset import MultifoldDataset, Store
from mxmclr_plugin.data.observations import Records
from mxmclr_plugin.models.feature_cache import FeatureStore, encoder_features
from mxmclr_plugin.models.registry import build_backbone
from mxmclr_plugin.models.tower import Tower

if TYPE_CHECKING:  # it takes seconds to import
    from sentence_transformers import SentenceTransformer

Teacher: TypeAlias = (
    "str | Mapping[str, Any] | SentenceTransformer | nn.Module | Tensor | npt.NDArray[Any] | "
    "FeatureStore"
)


def with_teacher(
    dataset: MultifoldDataset,
    modality: str,
    teacher: Teacher,
    *,
    shuffle_seed: int | None = None,
    batch_size: int = 256,
    device: torch.device | str | None = None,
) -> MultifoldDataset:
    """The data set with a teacher's features of a modality, computed once and cached.

    Batches of the data set then carry ``batch.soft_features[modality]``, of shape (rows, F): row k
    belongs to row k of ``batch[modality]`` and to the instance ``batch.ids[modality][k]``. The loss
    takes them as ``soft_features0`` or ``soft_features1``, and
    :class:`~mxmclr_plugin.loss.multimodal.MultimodalLoss` as ``soft_features``. Records of an
    :class:`~mxmclr_plugin.data.augmented_store.AugmentedStore` are encoded as they are before the
    transformation.

    Args:
        dataset: The training data.
        modality: Modality that the teacher encodes.
        teacher: Name of a tower, or a mapping of its ``name`` and options, whose pretrained
            backbone is the teacher: ``{"name": "sentence_transformer", "model": ...}``; or a
            SentenceTransformer, a :class:`~mxmclr_plugin.models.tower.Tower` (its backbone) or any
            module from records to features; or features that were computed elsewhere, row k of
            which belongs to record k of ``dataset.stores[modality]``. Shape: (records, F).
        shuffle_seed: If set, each instance has the features of another one, drawn with this seed: a
            control that keeps everything but what the teacher knows. All modalities with the same
            instances are shuffled alike.
        batch_size: Records encoded at a time.
        device: Device to which the encoder is moved; by default it stays where it is.

    Raises:
        ValueError: If the modality or the tower is unknown, the teacher has random weights,
            features are of another number of records, of records of another data set, or have NaN
            or infinity.

    Examples:
        >>> teacher = {"name": "sentence_transformer", "model": "offline-minilm"}
        >>> dataset = with_teacher(dataset, "text", teacher)
        >>> sampler = MultifoldSampler(dataset, instances=64, folds={"image": 1, "text": 5})
        >>> for batch in DataLoader(dataset, 64, sampler=sampler, collate_fn=collate):
        ...     z0, z1 = image_tower(batch["image"]), text_tower(batch["text"])
        ...     loss = criterion(
        ...         *(z0, z1, batch.ids["image"], batch.ids["text"]),
        ...         soft_features1=batch.soft_features["text"],
        ...     )
    """
    dataset.folds(modality)  # is there such a modality?
    store, copies = dataset.stores[modality], 1
    while isinstance(store, AugmentedStore):
        copies *= store.copies
        store = store.store
    features: FeatureStore | Tensor
    if isinstance(teacher, FeatureStore):
        features = _of_these_records(teacher, store, modality)
    elif isinstance(teacher, Tensor | np.ndarray):
        features = _checked(torch.as_tensor(teacher), store, modality)
    else:
        features = encoder_features(
            _encoder(teacher, dataset, modality),
            store,
            rows=dataset.observations_of(modality)[0] // copies,
            batch_size=batch_size,
            device=device,
            description=f"{modality} teacher",
        )
    rows = np.arange(len(store) * copies) // copies
    if shuffle_seed is not None:
        rows = rows[_shuffled(dataset, modality, shuffle_seed)]
    if copies > 1 or shuffle_seed is not None:
        features = _selected(features, rows)
    return dataset.with_soft_features(modality, features)


def _encoder(
    teacher: str | Mapping[str, Any] | nn.Module, dataset: MultifoldDataset, modality: str
) -> nn.Module:
    """The frozen module from records to features."""
    if isinstance(teacher, str | Mapping):
        # Weights and dropout of the towers draw the same numbers with a teacher and without.
        with torch.random.fork_rng(devices=[]):
            backbone = build_backbone(teacher, Records(dataset, modality))
        if not getattr(backbone, "pretrained", True):
            raise ValueError("a teacher with random weights knows nothing: give it weights")
        return backbone
    if isinstance(teacher, Tower):
        return teacher.backbone
    from sentence_transformers import SentenceTransformer

    from mxmclr_plugin.models.sentence_transformer import SentenceBackbone

    return SentenceBackbone(teacher) if isinstance(teacher, SentenceTransformer) else teacher


def _of_these_records(features: FeatureStore, store: Store, modality: str) -> FeatureStore:
    if not features.is_of(store):
        raise ValueError(
            f"the features were computed from other records than the {len(store)} of {modality!r}: "
            "compute them from this data set"
        )
    return features


def _checked(features: Tensor, store: Store, modality: str) -> Tensor:
    """Features as float32, on the CPU. Shape: (records, F)."""
    if features.ndim != 2 or len(features) != len(store):
        raise ValueError(
            f"features of {modality!r} are one row for each of its {len(store)} records, got the "
            f"shape {tuple(features.shape)}"
        )
    features = features.detach().float().cpu()
    bad = (~features.isfinite().all(dim=1)).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"features of {modality!r} have NaN or infinity in {len(bad)} rows, the first is "
            f"{int(bad[0])}"
        )
    return features


def _selected(
    features: FeatureStore | Tensor, rows: npt.NDArray[np.int64]
) -> FeatureStore | Tensor:
    if isinstance(features, Tensor):
        return features[torch.from_numpy(rows)]
    return features.selected(rows)


def _shuffled(dataset: MultifoldDataset, modality: str, seed: int) -> npt.NDArray[np.int64]:
    """For each record of a modality one of another instance. Shape: (records,).

    The observations of an instance are those of its partner, repeated where it has more.
    """
    rows = np.arange(len(dataset.stores[modality]))
    observed = [members for members in dataset.members[modality] if len(members)]
    numbers = np.random.Philox(np.random.SeedSequence(seed)).random_raw(len(observed))
    order = np.asarray(numbers).argsort(kind="stable")
    # A cycle, so that no instance is its own partner.
    for instance, partner in zip(order, np.roll(order, 1), strict=True):
        rows[observed[instance]] = np.resize(observed[partner], len(observed[instance]))
    return rows
