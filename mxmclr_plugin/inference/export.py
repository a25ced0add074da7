"""Writes down what a run has made, for others to use without this package."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import Tensor

from mxmclr_plugin.data.dataset import MultifoldDataset, stack
from mxmclr_plugin.data.file_store import FileStore
from mxmclr_plugin.data.manifest.build import OneShape
from mxmclr_plugin.data.observations import ObservationDataset
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.splits import ALL
from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.inference.embedding_files import FORMATS, write_embeddings
from mxmclr_plugin.inference.graph import (
    export_graph,
    export_onnx,
    run_onnx,
    save_graph,
    why_no_onnx,
)
from mxmclr_plugin.inference.run import Run
from mxmclr_plugin.inference.sentence_transformer import as_sentence_transformer
from mxmclr_plugin.models.text import (
    TextBackbone,
    without_progress_bars,
    write_sentence_transformer,
)
from mxmclr_plugin.models.tower import Tower
from mxmclr_plugin.registry import check_known
from mxmclr_plugin.safe_text import TerminalConsole, print_line

if TYPE_CHECKING:  # it takes seconds to import
    from sentence_transformers import SentenceTransformer

LARGEST_DIFFERENCE = 1e-4
"""Of a number of a unit vector, between a tower and what was written of it."""

_STEPS = (
    "first frame; turned as EXIF says; 16 bits, 32 bits and floats scaled to 8; transparent pixels "
    "over the background; RGB; short side resized to size, bicubic; centre cropped; uint8 of the "
    "shape (3, size, size); the tower does all else"
)
_OBSERVATIONS = 16  # that a written tower is compared on


def export_run(
    run: Run,
    out: Path,
    split: str = ALL,
    formats: Sequence[str] = ("safetensors",),
    towers: Sequence[str] | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Writes embeddings and towers to a folder, with an index ``export.json``.

    Text towers become SentenceTransformer folders, others torch.export's ``.pt2`` and, with torch
    2.7 and the packages of the extra ``onnx``, ``.onnx``; all make the tower's unit vectors, head
    and normalisation included. Each is loaded again and compared with the tower on the CPU in
    float32, on real observations: one row, and up to 16.

    Args:
        run: The run.
        out: The folder.
        split: Whose observations are embedded; ``all`` for those of all splits.
        formats: Of the embeddings: ``"safetensors"``, ``"parquet"``, ``"faiss"``.
        towers: Modalities whose towers are written; None for all.
        console: Where to say what was written, and the largest difference.

    Returns:
        What ``export.json`` holds.

    Raises:
        ConfigError: If an argument cannot be, or a tower cannot be written or differs from what was
            written by more than :data:`LARGEST_DIFFERENCE`: all else is written first.
    """
    console = console or TerminalConsole()
    for file_format in formats:
        check_known("format cannot be", file_format, FORMATS)
    wanted = list(run.towers) if towers is None else list(towers)
    dataset = run.searched(split)
    for modality in wanted:
        run.check_modality(dataset, modality)
    out.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {
        "checkpoint": str(run.checkpoint),
        "checkpoint_sha256": run.digest,
        "task": run.config.task,
        "loss": run.config.loss_name,
        "data": run.config.data,
        "notes": list(run.data.notes),
        "split": split,
        "embeddings": {},
        "towers": {},
    }
    split_of = run.split_of
    for modality, embedded in run.embeddings(dataset, run.encoded_modalities(dataset)).items():
        path = out / f"{split}_{modality}"
        try:
            entry = write_embeddings(embedded, dataset, modality, path, formats, split_of)
        except ImportError as error:
            raise ConfigError(f"format: {error}") from error
        index["embeddings"][modality] = entry
        files = ", ".join(entry[file_format] for file_format in formats)
        _say(console, f"{modality}: {entry['rows']} embeddings of {entry['dim']} in", files)

    failed = []
    written: dict[Tower, str] = {}
    for modality in wanted:
        tower = run.tower(modality)
        if tower in written:
            index["towers"][modality] = {"same_as": written[tower]}
            continue
        written[tower] = modality
        observations = _some(dataset, modality)
        parts, reasons = _write_tower(tower, observations, modality, out)
        if preprocessing := _preprocessing(dataset, modality, run.data.kinds[modality]):
            parts["preprocessing"] = preprocessing
        index["towers"][modality] = parts
        failed += [f"{modality}: {reason}" for reason in reasons]
        for part in parts.values():
            if isinstance(part, dict) and "largest_difference" in part:
                _say(
                    console,
                    f"{modality}: tower, largest difference {part['largest_difference']:.1e} on "
                    f"{len(observations)} observations, in",
                    part["file"],
                )
    reason = why_no_onnx()
    if reason and any("torch_export" in parts for parts in index["towers"].values()):
        _say(console, f"no ONNX: {reason}", "")
    write_atomically(out / "export.json", json.dumps(index, indent=2, ensure_ascii=False) + "\n")
    _say(console, "described in", str(out / "export.json"))
    if failed:
        raise ConfigError(f"towers: {'; '.join(failed)}. All else is written to {out}")
    return index


def _some(dataset: MultifoldDataset, modality: str) -> list[str] | Tensor:
    """A few observations of data, two at least."""
    observations = ObservationDataset(dataset, modality)
    # From all over the split.
    places = torch.linspace(0, len(observations) - 1, _OBSERVATIONS).round().long().tolist()
    some = [observations[place] for place in places]
    return stack(modality, [item.record for item in some], [item.id for item in some])


def _preprocessing(dataset: MultifoldDataset, modality: str, kind: str) -> dict[str, Any] | None:
    """How a file becomes the tower's input: the reader, and what it is called with."""
    store = dataset.stores[modality]
    if not isinstance(store, FileStore):
        return None
    read = store.read.read if isinstance(store.read, OneShape) else store.read
    function: Any = read.func if isinstance(read, partial) else read
    options = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    options |= read.keywords if isinstance(read, partial) else {}
    reader = f"{function.__module__}.{function.__qualname__}"
    return {"reader": reader, "options": options, **({"steps": _STEPS} if kind == "image" else {})}


def _write_tower(
    tower: Tower, observations: list[str] | Tensor, modality: str, out: Path
) -> tuple[dict[str, Any], list[str]]:
    """What was written of a tower, and why what was not."""
    plain = copy.deepcopy(tower).cpu().float().eval()
    parts: dict[str, Any] = {"dim": tower.dim}
    reasons: list[str] = []

    def add(name: str, file: str, written: Callable[[Any], Tensor]) -> None:
        differences = [
            (written(some) - _unit_vectors(plain, some)).abs().max()
            for some in (observations[:1], observations)
        ]
        difference = float(torch.stack(differences).max())  # NaN if one is
        parts[name] = {"file": file, "largest_difference": difference}
        if not difference <= LARGEST_DIFFERENCE:
            reasons.append(f"{file} differs from the tower by {difference:.1e}")

    try:
        if isinstance(tower.backbone, TextBackbone):
            from sentence_transformers import SentenceTransformer

            folder = f"{modality}_sentence_transformer"
            write_sentence_transformer(as_sentence_transformer(plain), out / folder)
            with without_progress_bars():
                loaded = SentenceTransformer(str(out / folder), device="cpu")
            add("sentence_transformer", folder, _encoder(loaded))
            return parts, reasons
        if not isinstance(observations, Tensor):
            raise ValueError("a tower of strings is written only if it is a SentenceTransformer")
        parts["input"] = {"shape": [None, *observations.shape[1:]], "dtype": _dtype(observations)}
        program = export_graph(plain, observations[:2])
        file = out / f"{modality}_tower.pt2"
        save_graph(program, file)
        module = torch.export.load(file).module()
        add("torch_export", file.name, lambda some: _unit_vectors(module, some))
        if why_no_onnx() is None:
            onnx = out / f"{modality}_tower.onnx"
            export_onnx(program, onnx)
            add("onnx", onnx.name, lambda some: run_onnx(onnx, some))
    except ValueError as error:
        reasons.append(str(error))
    return parts, reasons


def _unit_vectors(tower: torch.nn.Module, observations: list[str] | Tensor) -> Tensor:
    with torch.no_grad():
        z: Tensor = tower(observations)
    return z


def _encoder(model: SentenceTransformer) -> Callable[[Any], Tensor]:
    def encode(observations: list[str] | Tensor) -> Tensor:
        if not isinstance(observations, Tensor):
            return model.encode(observations, convert_to_tensor=True, show_progress_bar=False)
        # Images: `encode` takes them one by one.
        images = list(observations)
        z: Tensor = model.encode(images, convert_to_tensor=True, show_progress_bar=False)  # type: ignore[call-overload]
        return z

    return encode


def _dtype(observations: Tensor) -> str:
    return str(observations.dtype).removeprefix("torch.")


def _say(console: Console, what: str, file: str) -> None:
    print_line(console, f"{what} {file}".rstrip())
