"""Writes down what a run has made, for others to use without this package."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import Tensor

from mxmclr_plugin.data.batch import stack
from mxmclr_plugin.data.observations import ObservationDataset
from mxmclr_plugin.errors import ConfigError
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
from mxmclr_plugin.models.text import TextBackbone
from mxmclr_plugin.models.tower import Tower
from mxmclr_plugin.registry import did_you_mean
from mxmclr_plugin.safe_text import TerminalConsole

if TYPE_CHECKING:  # it takes seconds to import
    from sentence_transformers import SentenceTransformer

__all__ = ["LARGEST_DIFFERENCE", "export_run"]

LARGEST_DIFFERENCE = 1e-4
"""Of a number of a unit vector, between a tower and what was written of it."""

_OBSERVATIONS = 16  # that a written tower is compared on


def export_run(
    run: Run,
    out: Path,
    split: str = "test",
    file_format: str = "safetensors",
    towers: Sequence[str] | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Writes embeddings of a split, and towers, to a folder, with an index ``export.json``.

    Text towers become SentenceTransformer folders, others torch.export's ``.pt2`` and, with torch
    2.7 and the packages of the extra ``onnx``, ``.onnx``; all make the tower's unit vectors, head
    and normalisation included. Each is loaded again and compared with the tower on the CPU in
    float32, on real observations: one row, and up to 16.

    Args:
        run: The run.
        out: The folder.
        split: Whose observations are embedded.
        file_format: ``"safetensors"`` or ``"parquet"``.
        towers: Modalities whose towers are written; None for all.
        console: Where to say what was written, and the largest difference.

    Returns:
        What ``export.json`` holds.

    Raises:
        ConfigError: If an argument cannot be, or a tower cannot be written or differs from what was
            written by more than :data:`LARGEST_DIFFERENCE`: all else is written first.
    """
    console = console or TerminalConsole()
    if file_format not in FORMATS:
        raise ConfigError(
            f"format cannot be {file_format!r}: {did_you_mean(file_format, FORMATS)}it can be "
            f"{', '.join(FORMATS)}"
        )
    wanted = list(run.towers) if towers is None else list(towers)
    for modality in wanted:
        run.check_modality(split, modality)
    dataset = run.split(split)
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
    for modality, embedded in run.embeddings(split).items():
        try:
            entry = write_embeddings(
                embedded, dataset, modality, out / f"{split}_{modality}", file_format
            )
        except ImportError as error:
            raise ConfigError(f"format: {error}") from error
        index["embeddings"][modality] = entry
        _say(console, f"{modality}: {entry['rows']} embeddings of {entry['dim']} in", entry["file"])

    failed = []
    written: dict[Tower, str] = {}
    for modality in wanted:
        tower = run.tower(modality)
        if tower in written:
            index["towers"][modality] = {"same_as": written[tower]}
            continue
        written[tower] = modality
        observations = _some(run, split, modality)
        parts, reasons = _write_tower(tower, observations, modality, out)
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
    (out / "export.json").write_text(
        json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    _say(console, "what is what stands in", str(out / "export.json"))
    if failed:
        raise ConfigError(f"towers: {'; '.join(failed)}. All else is written to {out}")
    return index


def _some(run: Run, split: str, modality: str) -> list[str] | Tensor:
    """A few observations of the split, two at least."""
    observations = ObservationDataset(run.split(split), modality)
    # From all over the split.
    places = torch.linspace(0, len(observations) - 1, _OBSERVATIONS).round().long().tolist()
    some = [observations[place] for place in places]
    return stack(modality, [item.record for item in some], [item.id for item in some])


def _write_tower(
    tower: Tower, observations: list[str] | Tensor, modality: str, out: Path
) -> tuple[dict[str, Any], list[str]]:
    """What was written of a tower, and why what was not."""
    plain = copy.deepcopy(tower).cpu().float().eval()
    parts: dict[str, Any] = {"dim": tower.dim}
    reasons: list[str] = []

    def add(name: str, file: str, written: Callable[[Any], Tensor]) -> None:
        difference = max(
            float((written(some) - _unit_vectors(plain, some)).abs().max())
            for some in (observations[:1], observations)
        )
        parts[name] = {"file": file, "largest_difference": difference}
        if not difference <= LARGEST_DIFFERENCE:  # NaN as well
            reasons.append(f"{file} differs from the tower by {difference:.1e}")

    try:
        if isinstance(tower.backbone, TextBackbone):
            from sentence_transformers import SentenceTransformer

            folder = f"{modality}_sentence_transformer"
            as_sentence_transformer(plain).save(str(out / folder), create_model_card=False)
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
    console.print(f"{what} {file}".rstrip(), soft_wrap=True)
