"""Time, memory and error of loss implementations, measured side by side."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from mxmclr_plugin.benchmark.machine import (
    Moment,
    device_of,
    device_seconds,
    free_bytes,
    synchronize,
)
from mxmclr_plugin.benchmark.peak_memory import peak_extra_bytes
from mxmclr_plugin.benchmark.variants import LossOf, Problem, Variant, variants
from mxmclr_plugin.bounds import Count, Seed
from mxmclr_plugin.errors import first_line
from mxmclr_plugin.loss.arguments import (
    HARD_WEIGHT,
    SOFT_TEMPERATURE,
    TEMPERATURE,
)
from mxmclr_plugin.loss.functional import multifold_hybrid_loss
from mxmclr_plugin.registry import check_known

Progress = Callable[[str, float], None]
"""Called with what is done now and the share that is done."""

_DENSE_REFERENCE_TO = 4096**2


@dataclass
class LossBenchmark:
    """The sizes and variants to measure; every key is set by key=value.

    Attributes:
        n: Rows of side 0, one number or several.
        dim: Columns.
        folds: Rows of an instance on side 0 and on side 1; n must be a multiple of the first.
        dtype: float32, float64, bfloat16 or float16.
        device: cpu, cuda, ...
        impls: Names of implementations, all if empty.
        repeats: Rounds; in each every implementation runs once, in random order.
        threads: Threads of torch on a CPU; 0 leaves them as they are.
        temperature: Temperature of the logits.
        soft_temperature: Temperature of the relation, in standard deviations.
        hard_weight: Weight of the hard part of the hybrid loss.
        cache_bytes: Bytes of tiles kept where tiles are kept; null for the default of the device.
        shuffle: Whether rows are in random order, and not instance by instance.
        seed: Seed of the rows.
        json: File for the results.
    """

    n: list[Count] = field(default_factory=lambda: [1024, 4096])
    dim: Count = 512
    folds: list[Count] = field(default_factory=lambda: [4, 4])
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    impls: list[str] = field(default_factory=list)
    repeats: Count = 7
    threads: Annotated[int, Ge(0)] = 0
    temperature: float = TEMPERATURE
    soft_temperature: float = SOFT_TEMPERATURE
    hard_weight: float = HARD_WEIGHT
    cache_bytes: int | None = None
    shuffle: bool = False
    seed: Seed = 0
    json: str = ""

    def __post_init__(self) -> None:
        if len(self.folds) == 1:
            self.folds = self.folds * 2


@dataclass(frozen=True)
class Measured:
    """Results of one implementation at one size; times are medians.

    Attributes:
        impl: Name of the implementation.
        n: Rows of side 0.
        dim: Columns.
        folds: Rows of an instance on side 0 and on side 1.
        dtype: Dtype of the rows.
        device: Device.
        forward_s: Seconds to the loss.
        total_s: Seconds to the gradients.
        device_s: The same of a CUDA device alone, when all is launched before it begins. None on
            other devices, and where it cannot begin so late: see :func:`device_seconds`.
        peak_extra_bytes: Memory beyond the rows, gradients included; None if it cannot be measured,
            as of a CUDA graph, which keeps its memory.
        matmul_share: Time that the matmuls it needs take by themselves, at the rate of one large
            matmul in the same run, over its time; None where their number is not known.
        max_relative_error: Largest error of loss and gradients against float64, each relative to
            the largest absolute value there; None for another loss than ours.
        spread_s: Interquartile range of total_s.
        skipped: Why there are no results.
    """

    impl: str
    n: int
    dim: int
    folds: list[int]
    dtype: str
    device: str
    forward_s: float = 0.0
    total_s: float = 0.0
    device_s: float | None = None
    peak_extra_bytes: int | None = None
    matmul_share: float | None = None
    max_relative_error: float | None = None
    spread_s: float = 0.0
    skipped: str | None = None


def measure_losses(
    config: LossBenchmark, progress: Progress = lambda _what, _share: None
) -> Iterator[Measured]:
    """Measures every implementation at every size.

    Yields:
        Results, and for what cannot run the reason.

    Raises:
        ValueError: If a key has a value that cannot be.
    """
    device = _check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    chosen = [c for c in variants(device) if not config.impls or c.name in config.impls]
    for k, n in enumerate(config.n):

        def at_size(what: str, share: float, k: int = k, n: int = n) -> None:
            progress(f"n = {n}: {what}", (k + share) / len(config.n))

        yield from _measure_size(config, n, device, chosen, at_size)


def _check(config: LossBenchmark) -> torch.device:
    device = device_of(config.device)
    if len(config.folds) != 2:
        raise ValueError(f"folds must be one number or two, as [4,4], got {config.folds}")
    for n in config.n:
        if n % config.folds[0]:
            raise ValueError(f"n must be a multiple of folds[0] = {config.folds[0]}, got {n}")
    known = [c.name for c in variants(device)]
    for name in config.impls:
        check_known("impls cannot be", name, known)
    return device


def _measure_size(
    config: LossBenchmark,
    n: int,
    device: torch.device,
    chosen: list[Variant],
    progress: Progress,
) -> Iterator[Measured]:
    dtype = getattr(torch, config.dtype)
    problem, z0, z1 = _problem(config, n, device, dtype)
    logits = len(z0) * len(z1)
    runs: dict[str, LossOf] = {}
    skipped: dict[str, str] = {}
    for variant in chosen:
        needed = variant.matrices * logits * max(4, dtype.itemsize)
        if variant.unavailable is not None:
            skipped[variant.name] = variant.unavailable
        elif needed > 0.6 * free_bytes(device):
            skipped[variant.name] = f"needs about {needed / 2**30:.0f} GiB"
        else:
            runs[variant.name] = variant.build(problem)

    steps, done = len(runs) * (config.repeats + 3), 0

    def step(what: str) -> None:
        nonlocal done
        progress(what, done / steps)
        done += 1

    errors = {}
    by_name = {c.name: c for c in chosen}
    references: dict[str, list[Tensor]] = {}
    for name, run in list(runs.items()):
        step(f"{name}, agreement")
        objective = by_name[name].objective
        try:
            for _ in range(2 if by_name[name].graph else 0):  # captures the graph
                _once(run, z0, z1)
            got = [_once(run, z0, z1)[2], z0.grad, z1.grad]
        except Exception as error:  # a peer that does not take this size, dtype or device
            skipped[name] = f"{type(error).__name__}: {first_line(error)[:100]}"
            del runs[name]
            continue
        if objective != "other":
            if objective not in references:
                references[objective] = _reference(problem, z0, z1, objective)
            errors[name] = _error(got, references[objective])
        del got
    references.clear()

    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    device_times: dict[str, list[float | None]] = {name: [] for name in runs}
    unit_times = []
    for _ in range(config.repeats):
        unit_times.append(_unit_time(z0, z1))
        for name in random.sample(list(runs), len(runs)):
            step(f"{name}, time")
            times[name].append(_once(runs[name], z0, z1)[:2])
            device_times[name].append(_of_device(runs[name], z0, z1, times[name][-1][1]))
    peaks: dict[str, int | None] = {}
    for name, run in runs.items():
        step(f"{name}, memory")
        if by_name[name].graph:
            continue
        z0.grad = z1.grad = None
        peaks[name] = peak_extra_bytes(lambda run=run: _once(run, z0, z1), device)  # type: ignore[misc]
        z0.grad = z1.grad = None

    unit = statistics.median(unit_times)
    for variant in chosen:
        name = variant.name
        about = (name, n, config.dim, list(config.folds), config.dtype, str(device))
        if name in skipped:
            yield Measured(*about, skipped=skipped[name])
            continue
        totals = [total for _, total in times[name]]
        median = statistics.median(totals)
        of_device = [seconds for seconds in device_times[name] if seconds is not None]
        units = None if variant.units is None else variant.units(problem)
        quartiles = statistics.quantiles(totals, n=4) if len(totals) > 1 else [0.0, 0.0, 0.0]
        yield Measured(
            *about,
            forward_s=statistics.median([forward for forward, _ in times[name]]),
            total_s=median,
            device_s=statistics.median(of_device) if of_device else None,
            peak_extra_bytes=peaks.get(name),
            matmul_share=None if units is None else units * unit / median,
            max_relative_error=errors.get(name),
            spread_s=quartiles[2] - quartiles[0],
        )


def _problem(
    config: LossBenchmark, n: int, device: torch.device, dtype: torch.dtype
) -> tuple[Problem, Tensor, Tensor]:
    """Rows about a centre for each instance."""
    instances = n // config.folds[0]
    generator = torch.Generator().manual_seed(config.seed)
    centres = torch.randn(instances, config.dim, generator=generator)
    rows, ids = [], []
    for fold in config.folds:
        index = torch.arange(instances).repeat_interleave(fold)
        if config.shuffle:
            index = index[torch.randperm(len(index), generator=generator)]
        noise = torch.randn(len(index), config.dim, generator=generator)
        rows.append((centres[index] + noise).to(device, dtype).requires_grad_())
        ids.append(index.to(device))
    problem = Problem(
        instances,
        (config.folds[0], config.folds[1]),
        config.dim,
        ids[0],
        ids[1],
        config.temperature,
        config.soft_temperature,
        config.hard_weight,
        config.cache_bytes,
    )
    return problem, rows[0], rows[1]


def _once(run: LossOf, z0: Tensor, z1: Tensor) -> tuple[float, float, Tensor]:
    """Seconds to the loss, seconds to the gradients, and the loss; gradients are left in .grad."""
    device = z0.device
    z0.grad = z1.grad = None
    synchronize(device)
    start = Moment(device)
    loss = run(z0, z1)
    forward = Moment(device)  # the host goes on, as in training
    loss.backward()
    end = Moment(device)
    return start.seconds_until(forward), start.seconds_until(end), loss.detach()


def _of_device(run: LossOf, z0: Tensor, z1: Tensor, total: float) -> float | None:
    """Seconds of a CUDA device to the gradients, where ``total`` are those of host and device."""
    if z0.device.type != "cuda":
        return None
    z0.grad = z1.grad = None
    return device_seconds(z0.device, 2 * total + 0.005, lambda: run(z0, z1).backward())


def _unit_time(z0: Tensor, z1: Tensor) -> float:
    """Seconds for one n_0 x n_1 x D matmul, at the rate of one of a part of the rows."""
    z0, z1 = z0.detach(), z1.detach()
    most, calls = (4096, 1) if z0.device.type == "cpu" else (16384, 20)
    rows, columns = z0[:most], z1[:most]
    out = torch.empty(len(rows), len(columns), dtype=z0.dtype, device=z0.device)
    seconds = []
    for _ in range(4):
        synchronize(z0.device)
        start = time.perf_counter()
        for _ in range(calls):  # a device is busy for longer than a launch takes
            torch.mm(rows, columns.T, out=out)
        synchronize(z0.device)
        seconds.append((time.perf_counter() - start) / calls)
    # The first one touches fresh memory.
    return statistics.median(seconds[1:]) * (len(z0) * len(z1)) / out.numel()


def _reference(problem: Problem, z0: Tensor, z1: Tensor, objective: str) -> list[Tensor]:
    """Loss and gradients in float64: of the dense loss, or where that is too large streamed."""
    rows = [x.detach().double().requires_grad_() for x in (z0, z1)]
    loss = multifold_hybrid_loss(
        rows[0],
        rows[1],
        problem.ids0,
        problem.ids1,
        temperature=problem.temperature,
        soft_temperature=problem.soft_temperature,
        hard_weight=1.0 if objective == "hard" else problem.hard_weight,
        impl="dense" if len(z0) * len(z1) <= _DENSE_REFERENCE_TO else "streaming",
        num_instances=problem.instances,
        validate=False,
    )
    return [loss.detach(), *torch.autograd.grad(loss, rows)]


def _error(got: list[Tensor | None], expected: list[Tensor]) -> float:
    return max(
        float((x.double() - y).abs().max() / y.abs().max())
        for x, y in zip(got, expected, strict=True)
        if x is not None
    )
