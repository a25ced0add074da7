"""Instances with all their observations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mxmclr_plugin.data.frames import CellStore, cells_by_instance, instances_of
from mxmclr_plugin.data.members import Members, flattened, integers


class Store(Protocol):
    """All records of one modality: a list of strings, a tensor (records, ...), an own class."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class MultifoldInstance:
    """One instance with observations of it.

    Attributes:
        id: Its id.
        observations: Records by modality; a modality it lacks is missing or empty.
        batch_size: Instances in a batch of the sampler that drew it, None if none did.
        soft_features: A teacher's features of the observations, by modality; see
            :meth:`MultifoldDataset.with_soft_features`.
    """

    id: int
    observations: dict[str, Sequence[Tensor | str]]
    batch_size: int | None = None
    soft_features: dict[str, Sequence[Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Draw:
    """Some observations of an instance: an index that a sampler yields.

    Attributes:
        instance: Index in the data set.
        rows: Which of the instance's observations, 0 to fold - 1, by modality.
        batch_size: Instances in a batch of the sampler, which collating then checks.
    """

    instance: int
    rows: dict[str, tuple[int, ...]]
    batch_size: int | None = None


class MultifoldDataset(Dataset[MultifoldInstance]):
    """Instances, each with any number of observations in each modality.

    ``dataset[k]`` is instance k with all its observations, ``dataset[Draw(k, rows)]`` with some.
    Records are read from the stores on access, so they need not fit in memory.

    Args:
        stores: The records of each modality.
        members: For each modality, the indexes of the records of each instance.
        ids: An id for each instance, all different.
        names: A name for each instance, by default its id.
        soft_features: A teacher's features of all records of a modality, by modality; see
            :meth:`with_soft_features`.
        attributes: Values of each instance by attribute, none where it is unknown:
            ``{"colour": [("red",), ("red", "blue"), ()]}``. They are not trained on; graded metrics
            count those that two instances share.

    Raises:
        ValueError: If lengths do not fit, ids repeat, a record is not there or is named twice by
            an instance, or an instance has no observation at all.
    """

    def __init__(
        self,
        stores: Mapping[str, Store],
        members: Mapping[str, Sequence[npt.ArrayLike]],
        ids: npt.ArrayLike,
        names: Sequence[str] | None = None,
        soft_features: Mapping[str, Store] | None = None,
        attributes: Mapping[str, Sequence[Sequence[str]]] | None = None,
    ) -> None:
        self.stores = dict(stores)
        self.soft_features = dict(soft_features or {})
        self.attributes = {name: list(values) for name, values in (attributes or {}).items()}
        self.ids = integers("ids", ids)
        self.names = [str(i) for i in self.ids] if names is None else list(names)
        if len(self.names) != len(self.ids):
            raise ValueError(f"there are {len(self.ids)} instances but {len(self.names)} names")
        self.members = {
            modality: Members.of_lists(f"members[{modality!r}]", lists)
            for modality, lists in members.items()
        }
        self._check()

    @classmethod
    def from_lists(
        cls,
        observations: Mapping[str, Sequence[Sequence[Any] | None]],
        *,
        names: Sequence[str] | None = None,
        ids: npt.ArrayLike | None = None,
    ) -> MultifoldDataset:
        """The data set of observations in lists, one list per instance and modality.

        ``MultifoldDataset.from_lists({"image": [[i0, i1], [i2]], "text": [["a", "b"], ["c"]]})``
        has two instances, the first with two images and two texts.

        Args:
            observations: For each modality, the observations of each instance: tensors, arrays, or
                numbers, which become tensors, or strings. An instance without observations in a
                modality has an empty list or None there.
            names: A name for each instance, by default its id.
            ids: An id for each instance, all different; by default 0, 1, 2, ...

        Raises:
            ValueError: If there is no modality, modalities have different numbers of instances, or
                observations of a modality are not all strings or all of one shape and dtype.
        """
        if not observations:
            raise ValueError("from_lists needs a modality: {'text': [['a', 'b'], ['c']]}")
        count = len(next(iter(observations.values())))
        stores: dict[str, Store] = {}
        members: dict[str, Members] = {}
        for modality, of_instances in observations.items():
            if isinstance(of_instances, str) or len(of_instances) != count:
                raise ValueError(
                    f"{modality!r} has lists of {len(of_instances)} instances, "
                    f"{next(iter(observations))!r} of {count}"
                )
            lists = [
                _records_of(f"{modality!r}[{k}]", records) for k, records in enumerate(of_instances)
            ]
            records, members[modality] = flattened(lists)
            stores[modality] = stack(modality, records, members[modality].owners.tolist())
        return cls(stores, members, np.arange(count) if ids is None else ids, names)

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        columns: Mapping[str, str | Sequence[str]],
        *,
        id: str | None = None,
        read: Mapping[str, Callable[[Any], Tensor]] | None = None,
    ) -> MultifoldDataset:
        """The data set of a table, such as a pandas DataFrame.

        ``from_frame(frame, {"text": ["title", "description"], "image": "photo"}, id="sku",
        read={"image": read_photo})`` has an instance for each sku, with the texts and photos of all
        of its rows. Cells may be empty, or hold lists.

        Args:
            frame: A DataFrame, a Hugging Face data set, or a mapping of lists.
            columns: The column, or columns, of each modality.
            id: Column of the instance's id; None if each row is an instance.
            read: Makes a record of a value, for modalities that are neither texts nor arrays: of
                the path of an image, say. It is called each time that a record is needed.

        Raises:
            ValueError: If a column does not exist, an instance has no observation, or values of a
                modality that is not read are not all texts, or all arrays of one shape.
        """
        instances = instances_of(frame, id)
        stores: dict[str, Store] = {}
        members: dict[str, Members] = {}
        for modality, of_modality in columns.items():
            named = [of_modality] if isinstance(of_modality, str) else list(of_modality)
            cells, members[modality] = flattened(cells_by_instance(frame, named, instances))
            store = CellStore(frame, cells, (read or {}).get(modality))
            if modality in (read or {}):
                stores[modality] = store
            else:
                values = [store.value(k) for k in range(len(store))]
                records = _records_of(f"{modality!r}", values)
                stores[modality] = stack(modality, records, members[modality].owners.tolist())
        return cls(stores, members, np.arange(len(instances)), list(map(str, instances)))

    @classmethod
    def from_hub(
        cls,
        name: str,
        columns: Mapping[str, str | Sequence[str]],
        *,
        split: str = "train",
        id: str | None = None,
        read: Mapping[str, Callable[[Any], Tensor]] | None = None,
    ) -> MultifoldDataset:
        """The data set of a split that Hugging Face's ``datasets.load_dataset`` loads.

        Args:
            name: Name on the hub, or a local folder, such as one of images.
            columns: As for :meth:`from_frame`; so are ``id`` and ``read``.
            split: Name of the split.
            id: Column of the instance's id.
            read: Makes a record of a value: of a PIL image, for a column of images.

        Raises:
            ValueError: As :meth:`from_frame`.
        """
        from datasets import load_dataset

        return cls.from_frame(load_dataset(name, split=split), columns, id=id, read=read)

    def _check(self) -> None:
        if self.stores.keys() != self.members.keys():
            raise ValueError(
                f"stores are of {sorted(self.stores)} but members of {sorted(self.members)}"
            )
        values, counts = np.unique(self.ids, return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"ids must differ, got {values[counts > 1].tolist()} more than once")
        for modality, of_instances in self.members.items():
            if len(of_instances) != len(self.ids):
                raise ValueError(
                    f"members[{modality!r}] has {len(of_instances)} entries for "
                    f"{len(self.ids)} instances"
                )
            records = len(self.stores[modality])
            wrong = (of_instances.rows < 0) | (of_instances.rows >= records)
            if wrong.any():
                k = int(np.searchsorted(of_instances.offsets, wrong.argmax(), side="right")) - 1
                rows = of_instances[k]
                raise ValueError(
                    f"members[{modality!r}] of instance {self.names[k]!r} name records "
                    f"{rows.min()} to {rows.max()}, but the store has {records}"
                )
            for k in of_instances.repeating()[:1].tolist():
                raise ValueError(
                    f"members[{modality!r}] of instance {self.names[k]!r} name a record twice"
                )
        for attribute, listed in self.attributes.items():
            if len(listed) != len(self.ids):
                raise ValueError(
                    f"attributes[{attribute!r}] has {len(listed)} entries for {len(self.ids)} "
                    "instances"
                )
        for modality, features in self.soft_features.items():
            self._of(modality)
            if len(features) != len(self.stores[modality]):
                raise ValueError(
                    f"the soft features of {modality!r} have {len(features)} rows, but its store "
                    f"has {len(self.stores[modality])} records"
                )
        total = np.zeros(len(self.ids), dtype=np.int64)
        for modality in self.members:
            total += self.folds(modality)
        if (total == 0).any():
            raise ValueError(
                f"instance {self.names[int(np.argmin(total))]!r} has no observation in any modality"
            )

    def _of(self, modality: str) -> Members:
        if modality not in self.members:
            raise ValueError(f"there is no modality {modality!r}, only {self.modalities}")
        return self.members[modality]

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities."""
        return list(self.stores)

    def folds(self, modality: str) -> npt.NDArray[np.int64]:
        """Number of observations of each instance. Shape: (instances,)."""
        return self._of(modality).folds

    def observed_in(self, modalities: Sequence[str], least: int) -> npt.NDArray[np.bool_]:
        """Whether each instance has observations in so many of some modalities.

        An instance in fewer than two has no positive across modalities.

        Args:
            modalities: Names of the modalities.
            least: Number of them.

        Returns:
            Shape: (instances,).
        """
        observed = np.stack([self.folds(modality) > 0 for modality in modalities])
        return np.asarray(observed.sum(0) >= least)

    def observations_of(self, modality: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """All observations in a modality, instance by instance.

        Returns:
            Their records' indexes in the store and their instance ids. Shape: (rows,) each.
        """
        members = self._of(modality)
        return members.rows, np.repeat(self.ids, members.folds)

    def subset(self, indices: Sequence[int] | npt.NDArray[Any]) -> MultifoldDataset:
        """The data set of some of the instances; stores are shared.

        Args:
            indices: Indexes of the instances, in the order wanted, or a mask.
        """
        kept = np.arange(len(self))[list(indices)]
        return self.replace(
            members={modality: of.selected(kept) for modality, of in self.members.items()},
            ids=self.ids[kept],
            names=[self.names[k] for k in kept],
            attributes={name: [of[k] for k in kept] for name, of in self.attributes.items()},
        )

    def replace(self, **changes: Any) -> MultifoldDataset:
        """The data set with other arguments.

        Raises:
            ValueError: As the constructor does.
        """
        arguments = {
            name: changes.pop(name, getattr(self, name))
            for name in ("stores", "members", "ids", "names", "soft_features", "attributes")
        }
        return MultifoldDataset(**arguments, **changes)

    @classmethod
    def joined(cls, datasets: Sequence[MultifoldDataset]) -> MultifoldDataset:
        """The instances of several data sets, one after the other; records are shared.

        Ids are kept if all differ, else they are 0, 1, 2, ...

        Args:
            datasets: The data sets; not all need to have all modalities.
        """
        stores: dict[str, Store] = {}
        members: dict[str, Members] = {}
        for modality in dict.fromkeys(m for dataset in datasets for m in dataset.modalities):
            owned = [of.stores[modality] for of in datasets if modality in of.stores]
            parts = list({id(store): store for store in owned}.values())
            ends = np.cumsum([0, *map(len, parts)]).tolist()
            starts = {id(store): start for store, start in zip(parts, ends, strict=False)}
            stores[modality] = parts[0] if len(parts) == 1 else ChainedStore(parts)
            rows, folds = [], []
            for dataset in datasets:
                of = dataset.members.get(modality) or Members.of_sizes([0] * len(dataset))
                rows.append(of.rows + starts.get(id(dataset.stores.get(modality)), 0))
                folds.append(of.folds)
            offsets = Members.of_sizes(np.concatenate(folds)).offsets
            members[modality] = Members(np.concatenate(rows), offsets)
        ids = np.concatenate([dataset.ids for dataset in datasets])
        return cls(
            stores,
            members,
            ids if len(np.unique(ids)) == len(ids) else np.arange(len(ids)),
            [name for dataset in datasets for name in dataset.names],
            attributes={
                name: [values for dataset in datasets for values in dataset.attributes[name]]
                for name in datasets[0].attributes
                if all(name in dataset.attributes for dataset in datasets)
            },
        )

    def with_store(self, modality: str, store: Store) -> MultifoldDataset:
        """The data set with other records for a modality, such as features computed from them.

        Raises:
            ValueError: If the modality is unknown or the number of records differs.
        """
        self._of(modality)
        if len(store) != len(self.stores[modality]):
            raise ValueError(
                f"the store of {modality!r} has {len(self.stores[modality])} records, the new one "
                f"{len(store)}"
            )
        return self.replace(stores={**self.stores, modality: store})

    def with_soft_features(self, modality: str, features: Store) -> MultifoldDataset:
        """The data set with a teacher's features, from which the loss takes the soft relation.

        Its batches have them in ``batch.soft_features[modality]``, one row for each row of
        ``batch[modality]``. :func:`~mxmclr_plugin.models.teacher.with_teacher` computes them.

        Args:
            modality: Its name.
            features: Row k belongs to record k of ``stores[modality]``. Shape: (records, any).

        Raises:
            ValueError: If the modality is unknown or the number of records differs.
        """
        return self.replace(soft_features={**self.soft_features, modality: features})

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int | Draw) -> MultifoldInstance:
        batch_size = None
        if isinstance(index, Draw):
            instance, batch_size = index.instance, index.batch_size
            records = {
                modality: self._of(modality).picked(instance, rows)
                for modality, rows in index.rows.items()
            }
        else:
            instance = range(len(self))[index]  # as a list does: negative ones, and the error
            records = {modality: rows[instance].tolist() for modality, rows in self.members.items()}
        return MultifoldInstance(
            self.ids.item(instance),
            _read(self.stores, records),
            batch_size,
            _read(self.soft_features, records),
        )


def _read(
    stores: Mapping[str, Store], rows: Mapping[str, Sequence[int]]
) -> dict[str, Sequence[Any]]:
    """The records in these rows, of the modalities that have a store."""
    found: dict[str, Sequence[Any]] = {}
    for modality, store in stores.items():
        if modality in rows:
            found[modality] = [store[k] for k in rows[modality]]
    return found


class ChainedStore:
    """The records of several stores, one after the other."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = list(stores)
        self.ends = np.cumsum([len(store) for store in stores])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Any:
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.stores[part][index - int(self.ends[part]) + len(self.stores[part])]

    def parts(self, positions: Sequence[int]) -> Iterator[tuple[Store, list[int]]]:
        """The stores that hold some positions, in their order, each with its own positions."""
        owners = np.searchsorted(self.ends, positions, side="right")
        placed = zip(owners.tolist(), positions, strict=True)
        for part, places in itertools.groupby(placed, itemgetter(0)):
            start = int(self.ends[part]) - len(self.stores[part])
            yield self.stores[part], [position - start for _, position in places]


def _records_of(where: str, records: Any) -> list[Tensor | str]:
    """The records of one instance: strings as they are, all else as tensors."""
    if records is None:
        return []
    if isinstance(records, str) or not hasattr(records, "__len__"):
        raise ValueError(
            f"{where} must be a list of observations, got {records!r:.40}; for a single one write "
            "[...] around it"
        )
    found = []
    for record in records:
        try:
            found.append(record if isinstance(record, str) else torch.as_tensor(record))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{where} holds no tensor, array or string: {error}") from error
    return found


def stack(
    modality: str, records: Sequence[Tensor | str], owners: Sequence[int]
) -> Tensor | list[str]:
    """Records of one modality as one tensor, or as a list of strings.

    Args:
        modality: Its name, for messages.
        records: Tensors of one shape and dtype, or strings.
        owners: Instance of each, for messages.

    Raises:
        ValueError: If they are of several kinds, shapes or dtypes.
    """
    texts = [record for record in records if isinstance(record, str)]
    if len(texts) == len(records):
        return texts
    kinds = [_kind(record) for record in records]
    for record, kind, owner in zip(records, kinds, owners, strict=True):
        if not isinstance(record, Tensor | str):
            raise ValueError(
                f"{modality!r} records must be tensors or strings, but instance {owner} has {kind}"
            )
        if kind != kinds[0]:
            raise ValueError(
                f"{modality!r} records cannot be stacked: instance {owners[0]} has {kinds[0]} but "
                f"instance {owner} has {kind}"
            )
    return torch.stack([record for record in records if isinstance(record, Tensor)])


def _kind(record: object) -> str:
    if isinstance(record, Tensor):
        return f"a tensor {record.dtype} of shape {tuple(record.shape)}"
    return f"a {type(record).__name__}"
