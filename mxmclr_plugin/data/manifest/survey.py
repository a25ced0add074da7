"""Records of a manifest that several instances share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from mxmclr_plugin.data.manifest.instances import Instances

__all__ = ["SharedRecord", "shared_records"]


@dataclass(frozen=True)
class SharedRecord:
    """A text or file that several instances have: each is then a false negative of the others.

    Attributes:
        modality: Of which it is.
        record: The text, or where the file is.
        names: Names of the instances.
    """

    modality: str
    record: str
    names: tuple[str, ...]


def shared_records(found: Instances) -> list[SharedRecord]:
    """Records of several instances, those of the most instances first.

    Texts are compared without regard to case and white space, files by where they are.
    """
    shared = []
    for modality, kind in found.kinds.items():
        owners: dict[str, dict[str, None]] = defaultdict(dict)
        first: dict[str, str] = {}
        for name, record in _records(found, modality):
            key = " ".join(record.split()).casefold() if kind == "text" else record
            owners[key][name] = None
            first.setdefault(key, record)
        shared += [
            SharedRecord(modality, first[key], tuple(names))
            for key, names in owners.items()
            if len(names) > 1
        ]
    return sorted(shared, key=lambda record: -len(record.names))


def _records(found: Instances, modality: str) -> Iterator[tuple[str, str]]:
    """Name of the instance, and record."""
    for instance in found.instances:
        for record in instance.records.get(modality, ()):
            yield instance.name, str(record)
