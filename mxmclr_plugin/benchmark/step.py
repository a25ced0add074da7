"""Time and memory of a training step of two towers, with and without chunks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from mxmclr_plugin.benchmark.machine import device_of, synchronize
from mxmclr_plugin.benchmark.peak_memory import peak_extra_bytes
from mxmclr_plugin.bounds import Count
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.models.checkpointing import encode_in_chunks
from mxmclr_plugin.models.registry import build_tower


@dataclass
class StepBenchmark:
    """Options of the benchmark.

    Attributes:
        n: Observations of each modality, four of each instance.
        cache_chunk: Observations encoded at once; 0 for all.
        tower: Name of the image tower of both modalities.
        size: Edge of the images, in pixels.
        repeats: Steps of which the median is taken.
        device: cpu, cuda, cuda:1, ...
        json: File for the figures.
    """

    n: list[Count] = field(default_factory=lambda: [256, 2048, 8192])
    cache_chunk: list[Annotated[int, Ge(0)]] = field(default_factory=lambda: [0, 256])
    tower: str = "light_cnn2d"
    size: Count = 32
    repeats: Count = 3
    device: str = "cpu"
    json: Path | None = None


@dataclass(frozen=True)
class MeasuredStep:
    """Figures of a step.

    Attributes:
        impl: Whole batch, or the size of the chunks.
        n: Observations of each modality.
        seconds: Median of the time of forward and backward pass.
        peak_extra_bytes: Memory beyond towers and images, gradients included; None if unknown.
    """

    impl: str
    n: int
    seconds: float
    peak_extra_bytes: int | None


def measure_steps(
    config: StepBenchmark, progress: Callable[[str, float], None] = lambda _what, _share: None
) -> Iterator[MeasuredStep]:
    """Measures every batch with every size of chunk.

    Raises:
        ValueError: If the device or the tower cannot be used.
    """
    device = device_of(config.device)
    torch.manual_seed(0)
    towers = [build_tower({"name": config.tower}).to(device) for _ in range(2)]
    loss = MultifoldHybridLoss()
    cases = [(n, chunk) for n in config.n for chunk in config.cache_chunk if chunk < n]
    for k, (n, chunk) in enumerate(cases):
        impl = f"cache_chunk={chunk}" if chunk else "whole batch"
        progress(f"{impl}, n = {n}", k / len(cases))
        shape = (n, 3, config.size, config.size)
        images = [torch.randint(256, shape, dtype=torch.uint8, device=device) for _ in towers]
        ids = (torch.arange(n) // 4).to(device)
        step = partial(_step, towers, images, ids, loss, chunk or n)
        step()
        peak = peak_extra_bytes(step, device)
        times = []
        for _ in range(config.repeats):
            start = time.perf_counter()
            step()
            synchronize(device)
            times.append(time.perf_counter() - start)
        yield MeasuredStep(impl, n, statistics.median(times), peak)


def _step(
    towers: Sequence[nn.Module], images: list[Tensor], ids: Tensor, loss: nn.Module, chunk: int
) -> None:
    for tower in towers:
        tower.zero_grad()
    z0, z1 = (
        encode_in_chunks(tower, records, chunk) if chunk < len(records) else tower(records)
        for tower, records in zip(towers, images, strict=True)
    )
    loss(z0, z1, ids, ids).backward()
