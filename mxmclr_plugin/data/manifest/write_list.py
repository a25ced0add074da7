"""Writes instances as a manifest that names their files where they are."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from mxmclr_plugin.data.file_store import EmbeddedFile
from mxmclr_plugin.data.manifest.instances import Instances, Record
from mxmclr_plugin.data.manifest.kinds import key_of
from mxmclr_plugin.data.paths import hint
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.errors import DataError
from mxmclr_plugin.files import replacing, write_atomically


def only_present(found: Instances, root: Path, log: ProblemLog) -> Instances:
    """The instances without files that do not exist.

    Args:
        found: The instances.
        root: What paths were relative to, for messages.
        log: Gets a problem for each such file.

    Raises:
        DataError: If most files of a kind do not exist, or nothing is left.
    """
    count: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    kept = []
    for instance in found.instances:
        records: dict[str, list[Record]] = {}
        for modality, of in instance.records.items():
            records[modality] = [r for r in of if not isinstance(r, Path) or r.is_file()]
            count[modality] += len(of)
            missing[modality] += len(of) - len(records[modality])
            for path in of:
                if path not in records[modality]:
                    what = f"there is no file {path}{hint(path) if isinstance(path, Path) else ''}"
                    log.add(f"{found.kinds[modality]} missing", instance.where, what)
        if any(records.values()):
            kept.append(replace(instance, records=records))
    for modality, number in missing.items():
        if 2 * number > count[modality]:
            raise DataError(
                f"{number} of {count[modality]} files of {modality!r} do not exist; paths are "
                f"relative to {root}: set root=FOLDER ({log.summary()})"
            )
    if not kept:
        raise DataError(f"there is no instance that can be used: {log.summary() or 'no rows'}")
    return Instances(found.kinds, kept)


def write_list(found: Instances, out: Path) -> bool:
    """Write instances as a JSONL manifest.

    Files in the manifest's folder are named by their path in it, others by their absolute path.
    Files that are embedded in another one are written to a folder beside the manifest.

    Args:
        found: The instances.
        out: The manifest.

    Returns:
        Whether all files are in the manifest's folder; if not, it is read with
        ``allow_outside=true``.
    """
    folder = out.parent.resolve()
    inside = True
    lines = []
    extracted = 0
    ids = _ids(found)
    for instance, id_ in zip(found.instances, ids, strict=True):
        line: dict[str, Any] = {"id": id_}
        if instance.split is not None:
            line["split"] = instance.split
        for modality, records in instance.records.items():
            values = []
            for record in records:
                if isinstance(record, Path):
                    below = record.is_relative_to(folder)
                    inside &= below
                    path = record.relative_to(folder) if below else record
                    values.append(path.as_posix())
                elif isinstance(record, str):
                    values.append(record)
                else:
                    place = folder / f"{out.stem}_files" / modality / f"{extracted:08}"
                    values.append(_extract(record, place).relative_to(folder).as_posix())
                    extracted += 1
            if values:
                line[key_of(modality, found.kinds)] = values
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_atomically(out, "".join(lines))
    return inside


def _ids(found: Instances) -> list[str]:
    """The name of each instance, with a number where another one has it: 1 and "1" are two."""
    names = Counter(instance.name for instance in found.instances)
    numbers: Counter[str] = Counter()
    ids = []
    for instance in found.instances:
        name = instance.name
        numbers[name] += 1
        if numbers[name] > 1:
            while (name := f"{instance.name} ({numbers[instance.name]})") in names:
                numbers[instance.name] += 1
            names[name] += 1
        ids.append(name)
    return ids


def _extract(record: EmbeddedFile, place: Path) -> Path:
    with record.unpacked() as file:
        path = place.with_name(f"{place.name}{file.suffix.lower()}")
        with replacing(path) as unfinished:
            shutil.copyfile(file, unfinished)
    return path
