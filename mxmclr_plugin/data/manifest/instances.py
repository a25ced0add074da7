"""Instances from the rows of a manifest: keys, types, paths and ids are checked."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from mxmclr_plugin.data.file_store import EmbeddedFile
from mxmclr_plugin.data.manifest.kinds import RESERVED, modality_of
from mxmclr_plugin.data.paths import located, unicode_text
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.rows import Row
from mxmclr_plugin.data.splits import SPLITS, split_named
from mxmclr_plugin.errors import DataError
from mxmclr_plugin.registry import did_you_mean

IN_TWO_SPLITS = "id in two splits"
"""The kind of problem that is one for the set as a whole: what is tested would be trained on."""

_URL = re.compile(r"[a-z][a-z0-9+]+://", re.IGNORECASE)

Record: TypeAlias = str | Path | EmbeddedFile


@dataclass(slots=True)
class ManifestInstance:
    """One instance.

    Attributes:
        name: Its id as text.
        where: File and line where it stands first.
        split: ``train``, ``val``, ``test``, or None where no line of it says.
        records: Texts, or files, by modality.
        lines: Number of lines that it is made of.
        labels: Values by label.
    """

    name: str
    where: str
    split: str | None
    records: dict[str, list[Record]] = field(default_factory=dict)
    lines: int = 1
    labels: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Instances:
    """The content of a manifest.

    Attributes:
        kinds: Kind of each modality, in the order in which they occur.
        instances: The instances, in their order.
    """

    kinds: dict[str, str]
    instances: list[ManifestInstance]


def collect_instances(
    rows: Iterable[Row],
    root: Path,
    log: ProblemLog,
    *,
    allow_outside: bool = False,
    labels: Sequence[str] = (),
) -> Instances:
    """Instances of rows; rows of one id are one instance with the observations of all.

    Args:
        rows: The rows.
        root: What paths are relative to.
        log: Gets a problem for what is left out: a row, a key's value, or a record.
        allow_outside: Whether files may lie outside ``root``, by ``..``, an absolute path or a
            symbolic link.
        labels: Keys of a row, or of its ``meta``, whose values are labels.

    Raises:
        DataError: If two keys give one name to modalities of two kinds.
    """
    reader = _RowReader(root.resolve(), log, allow_outside, labels)
    by_id: dict[str | tuple[str], ManifestInstance] = {}
    for row in rows:
        instance = reader.read(row)
        if instance is None:
            continue
        # 1 and "1" are two ids; a row without one is an instance by itself.
        id_ = row.values.get("id")
        text = row.where if id_ is None else json.dumps(id_)
        first = by_id.setdefault(instance.name if isinstance(id_, str) else (text,), instance)
        if first is not instance:
            _merge(first, instance, log)
    reader.report_unknown_keys()
    kept = []
    for instance in by_id.values():
        if any(instance.records.values()):
            kept.append(instance)
        else:
            log.add("instance without observations", instance.where, f"{instance.name!r} has none")
    return Instances(reader.kinds, kept)


def _merge(first: ManifestInstance, other: ManifestInstance, log: ProblemLog) -> None:
    if None not in (first.split, other.split) and first.split != other.split:
        log.add(
            IN_TWO_SPLITS,
            other.where,
            f"{first.name!r} is in {other.split!r} here, but in {first.split!r} at {first.where}",
        )
        return
    first.lines += 1
    first.split = first.split or other.split
    for modality, records in other.records.items():
        present = first.records.setdefault(modality, [])
        # An image with five captions may stand in five lines.
        first.records[modality] = list(dict.fromkeys([*present, *records]))
    for label, values in other.labels.items():
        first.labels[label] = list(dict.fromkeys([*first.labels.get(label, []), *values]))


class _RowReader:
    def __init__(
        self, root: Path, log: ProblemLog, allow_outside: bool, labels: Sequence[str]
    ) -> None:
        self.root = root
        self.labels = labels
        self.log = log
        self.allow_outside = allow_outside
        self.kinds: dict[str, str] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        self._unknown: dict[str, tuple[str, str]] = {}  # key to where it is first, and why
        self._unknown_rows: Counter[str] = Counter()

    def read(self, row: Row) -> ManifestInstance | None:
        """The instance of one row; None if the row as a whole cannot be used."""
        id_, split = row.values.get("id"), row.values.get("split")
        if not isinstance(id_, (str, int, float, type(None))) or not _is_text(str(id_)):
            self.log.add("id unreadable", row.where, f"key 'id': {_a(id_)} is no id")
            return None
        if split is not None and split_named(split) is None:
            hint = did_you_mean(split, SPLITS) if isinstance(split, str) else ""
            self.log.add(
                "split unknown", row.where, f"key 'split': {_a(split)}; {hint}it is one of {SPLITS}"
            )
            return None
        name = id_ if isinstance(id_, str) else json.dumps(id_)
        if id_ is None:
            name = unicode_text(row.where)
        instance = ManifestInstance(name, row.where, split_named(split))
        for key, value in row.values.items():
            modality = self._modality(key, row.where)
            if modality is not None and value is not None:
                records = list(self._records(key, self.kinds[modality], value, row.where))
                once = list(dict.fromkeys(records))
                for _ in range(len(records) - len(once)):
                    self.log.add(
                        f"{self.kinds[modality]} repeated",
                        row.where,
                        f"key {key!r} has one twice",
                    )
                instance.records[modality] = once
        meta = row.values.get("meta")
        for label in self.labels:
            value = row.values.get(label, meta.get(label) if isinstance(meta, dict) else None)
            instance.labels[label] = self._label(label, value, row.where)
        return instance

    def _label(self, label: str, value: Any, where: str) -> list[str]:
        """The values of a label, none where there is none."""
        values = value if isinstance(value, list) else [] if value in (None, "") else [value]
        for item in values:
            if not isinstance(item, (str, int, float)):
                self.log.add(
                    "label of a wrong type",
                    where,
                    f"label {label!r} is {_a(item)}, neither a text nor a number",
                )
                return []
        return list(dict.fromkeys(str(item) for item in values))

    def _modality(self, key: str, where: str) -> str | None:
        """The modality that a key stands for, if it stands for one."""
        if key in RESERVED or key in self.labels:
            return None
        if key not in self._keys and key not in self._unknown:
            try:
                self._keys[key] = modality_of(key)
            except ValueError as error:
                self._unknown[key] = (where, str(error))
        if key in self._unknown:
            self._unknown_rows[key] += 1
            return None
        name, kind = self._keys[key]
        if self.kinds.setdefault(name, kind) != kind:
            raise DataError(
                f"{where}: key {key!r} names a modality {name!r}, but a modality of the "
                f"kind {self.kinds[name]!r} has this name"
            )
        return name

    def report_unknown_keys(self) -> None:
        """One problem for each key, not for each row."""
        for key, (where, why) in self._unknown.items():
            rows = self._unknown_rows[key]
            self.log.add("key unknown", where, f"key {key!r}, in {rows} rows, is not read: {why}")

    def _records(self, key: str, kind: str, value: Any, where: str) -> Iterator[Record]:
        what = "text" if kind == "text" else "path"
        values = value if isinstance(value, list) else [value]
        if not isinstance(value, (list, str, EmbeddedFile)):
            self.log.add(
                f"{kind} of a wrong type",
                where,
                f"key {key!r} is {_a(value)}, neither a {what} nor a list of them",
            )
            return
        for number, item in enumerate(values):
            at = f"key {key!r}, item {number + 1}"
            if not isinstance(item, str):
                if isinstance(item, EmbeddedFile) and kind != "text":
                    yield item
                else:
                    self.log.add(
                        f"{kind} of a wrong type", where, f"{at}, is {_a(item)}, no {what}"
                    )
            elif not item.strip() or not (_is_text if kind == "text" else _is_name)(item):
                self.log.add(f"{kind} unreadable", where, f"{at}, is empty or no Unicode text")
            elif kind == "text":
                yield item
            else:
                path = self._path(kind, item, where, at)
                if path is not None:
                    yield path

    def _path(self, kind: str, item: str, where: str, at: str) -> Path | None:
        if _URL.match(item):
            what = f"{at}, {item!r:.80} is a URL: only files are read"
            self.log.add(f"{kind} missing", where, what)
            return None
        try:
            path = located(self.root / item).resolve()
        # A null character; links in a circle.
        except (OSError, ValueError, RuntimeError) as error:
            self.log.add(f"{kind} missing", where, f"{at}, {item!r} is no path: {error}")
            return None
        if self.allow_outside or path.is_relative_to(self.root):
            return path
        self.log.add(
            f"{kind} outside the folder",
            where,
            f"{at}, {item!r} leads out of {self.root}; allow_outside=true lets it",
        )
        return None


def _is_text(value: str) -> bool:
    """Whether a string can be written: JSON may hold halves of characters."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_name(value: str) -> bool:
    """Whether a file may have such a name: one that is no Unicode text is kept as Python does."""
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def _a(value: Any) -> str:
    """A value as JSON calls it, short."""
    kinds: dict[type, str] = {
        **{dict: "an object", list: "a list", str: "a text", type(None): "null"},
        **{bool: "a boolean", int: "a number", float: "a number"},
    }
    kind = kinds.get(type(value), type(value).__name__)
    return kind if value is None or isinstance(value, (dict, list)) else f"{kind} ({value!r:.40})"
