"""Time and memory of a training step of two towers, with and without chunks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from mxmclr_plugin.benchmark.bert_tokens import SIZES, BertTokens
from mxmclr_plugin.benchmark.host_waits import host_waits
from mxmclr_plugin.benchmark.machine import device_of
from mxmclr_plugin.benchmark.peak_memory import peak_extra_bytes
from mxmclr_plugin.bounds import Count
from mxmclr_plugin.experiment.training.gpu_idle import IdleMeter
from mxmclr_plugin.experiment.training.timeline import Timeline, watch_loss
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.loss.multimodal import MultimodalLoss
from mxmclr_plugin.models.checkpointing import encode_in_chunks
from mxmclr_plugin.models.image import TorchvisionBackbone, image_models
from mxmclr_plugin.models.registry import build_tower
from mxmclr_plugin.models.tower import Tower

Text = Literal["none", "bert-tiny", "bert-base"]


@dataclass
class StepBenchmark:
    """Options of the benchmark.

    Attributes:
        n: Observations of the first modality, images.
        folds: Observations of each instance: one number for both modalities, or two.
        cache_chunk: Observations encoded at once; 0 for all.
        tower: Name of an image tower, or of a torchvision model such as resnet50. Its weights are
            random.
        size: Edge of the images, in pixels.
        text: Second modality: bert-base or bert-tiny, with random weights, for texts of so many
            ``tokens``; none for images and a second image tower.
        tokens: Tokens of a text.
        dtype: float32, or bfloat16 for autocast.
        repeats: Steps of which the median is taken.
        device: cpu, cuda, cuda:1, ...
        json: File for the figures.
    """

    n: list[Count] = field(default_factory=lambda: [256, 2048, 8192])
    folds: list[Count] = field(default_factory=lambda: [4])
    cache_chunk: list[Annotated[int, Ge(0)]] = field(default_factory=lambda: [0, 256])
    tower: str = "light_cnn2d"
    size: Count = 32
    text: Text = "none"
    tokens: Count = 64
    dtype: Literal["float32", "bfloat16"] = "float32"
    repeats: Count = 3
    device: str = "cpu"
    json: Path | None = None


@dataclass(frozen=True)
class MeasuredStep:
    """Figures of a step: zeroed gradients, forward and backward pass, AdamW.

    Attributes:
        impl: Whole batch, or the size of the chunks.
        n: Observations of the first modality.
        seconds: Median of the time of a step.
        loss_seconds: Median of the time of the loss in it, forward and backward pass.
        loss_share: The second as a share of the first, 0 to 1.
        optimizer_seconds: Median of the time of the optimizer in it.
        gpu_idle: Share of the time in which the GPU is idle, 0 to 1; None on other devices.
        host_waits: Calls of a step in which the host waits for the GPU; None on other devices.
        peak_extra_bytes: Memory beyond towers, optimizer and records, gradients included; None if
            unknown.
        skipped: Why the step was not measured; None if it was.
    """

    impl: str
    n: int
    seconds: float = 0.0
    loss_seconds: float = 0.0
    loss_share: float = 0.0
    optimizer_seconds: float = 0.0
    gpu_idle: float | None = None
    host_waits: int | None = None
    peak_extra_bytes: int | None = None
    skipped: str | None = None


def measure_steps(
    config: StepBenchmark, progress: Callable[[str, float], None] = lambda _what, _share: None
) -> Iterator[MeasuredStep]:
    """Measures every batch with every size of chunk.

    Raises:
        ValueError: If the device or the tower cannot be used, or folds and sizes do not fit.
    """
    device = device_of(config.device)
    if len(config.folds) > 2:
        raise ValueError(f"folds must be one number or two, got {config.folds}")
    folds = config.folds[0], config.folds[-1]
    for n in config.n:
        if n % folds[0]:
            raise ValueError(f"n must be a multiple of folds[0] = {folds[0]}, got {n}")
    torch.manual_seed(0)
    step = _Step(config, device)
    cases = [(n, chunk) for n in config.n for chunk in config.cache_chunk if chunk < n]
    for k, (n, chunk) in enumerate(cases):
        impl = f"cache_chunk={chunk}" if chunk else "whole batch"
        progress(f"{impl}, n = {n}", k / len(cases))
        try:
            measured = _measured(impl, n, step.of(n, folds, chunk), config.repeats, device)
        except torch.cuda.OutOfMemoryError:
            measured = MeasuredStep(impl, n, skipped="it does not fit the memory; try cache_chunk")
        step.optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        yield measured


class _Step:
    """A training step of two towers with a loss between them."""

    def __init__(self, config: StepBenchmark, device: torch.device) -> None:
        self.config = config
        self.device = device
        image = partial(_image_tower, config.tower)
        second = image() if config.text == "none" else Tower(BertTokens(config.text))
        self.towers = nn.ModuleDict({"image": image(), "second": second}).to(device)
        self.loss = MultimodalLoss(MultifoldHybridLoss(), list(self.towers))
        self.optimizer = torch.optim.AdamW(
            self.towers.parameters(), lr=1e-4, fused=device.type == "cuda"
        )

    def of(self, n: int, folds: tuple[int, int], chunk: int) -> Callable[[Timeline | None], None]:
        """The step with a batch of that size, which marks its parts on a timeline."""
        instances = n // folds[0]
        rows = {"image": n, "second": instances * folds[1]}
        records = {
            "image": self._images(rows["image"]),
            "second": self._images(rows["second"])
            if self.config.text == "none"
            else torch.randint(
                1000, SIZES[self.config.text].vocab_size, (rows["second"], self.config.tokens)
            ).to(self.device),
        }
        ids = {
            name: (torch.arange(rows[name]) // fold).to(self.device)
            for name, fold in zip(rows, folds, strict=True)
        }
        return partial(self._run, records, ids, chunk or max(rows.values()))

    def _images(self, rows: int) -> Tensor:
        shape = (rows, 3, self.config.size, self.config.size)
        return torch.randint(256, shape, dtype=torch.uint8, device=self.device)

    def _run(
        self,
        records: Mapping[str, Tensor],
        ids: Mapping[str, Tensor],
        chunk: int,
        timeline: Timeline | None = None,
    ) -> None:
        def mark(part: str | None) -> None:
            if timeline is not None:
                timeline.mark(part)

        mark(None)
        hooks = watch_loss(self.loss, mark)
        self.optimizer.zero_grad()
        with self._autocast():
            z = {name: self._encoded(name, records[name], chunk) for name in records}
            loss = self.loss(z, ids)
        loss.backward()
        mark("towers")
        self.optimizer.step()
        mark("optimizer")
        for hook in hooks:
            hook.remove()

    def _encoded(self, name: str, records: Tensor, chunk: int) -> Tensor:
        tower = self.towers[name]
        if chunk < len(records):
            return encode_in_chunks(tower, records, chunk)
        z: Tensor = tower(records)
        return z

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def _measured(
    impl: str,
    n: int,
    step: Callable[[Timeline | None], None],
    repeats: int,
    device: torch.device,
) -> MeasuredStep:
    step(None)  # kernels are compiled and tuned
    peak = peak_extra_bytes(partial(step, None), device)
    with host_waits(device) as waits:
        step(None)
    timelines = [Timeline(device) for _ in range(repeats)]
    for timeline in timelines:
        step(timeline)
    idle = IdleMeter(device)
    parts = [timeline.seconds() for timeline in timelines]
    idle.start()
    for _ in range(repeats):
        step(None)
    gpu_idle = idle.stop()
    seconds, loss, optimizer = (
        statistics.median(measured)
        for measured in (
            [sum(of.values()) for of in parts],
            [of["loss"] for of in parts],
            [of["optimizer"] for of in parts],
        )
    )
    on_gpu = device.type == "cuda"
    return MeasuredStep(
        impl,
        n,
        seconds,
        loss,
        loss / seconds,
        optimizer,
        gpu_idle,
        len(waits) if on_gpu else None,
        peak,
    )


def _image_tower(name: str) -> Tower:
    if name in image_models():
        return Tower(TorchvisionBackbone(name))
    return build_tower({"name": name})
