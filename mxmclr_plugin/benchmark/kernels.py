"""The fastest cut of each Triton kernel on a device, found by trying."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from mxmclr_plugin.benchmark.machine import Moment, device_of
from mxmclr_plugin.bounds import Count
from mxmclr_plugin.errors import first_line
from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.json_records import json_text
from mxmclr_plugin.loss.arguments import TEMPERATURE, Implementation
from mxmclr_plugin.loss.functional import multifold_hybrid_loss
from mxmclr_plugin.loss.kernels.triton.cuts import Cut, Cuts, default_cuts
from mxmclr_plugin.loss.kernels.triton.measured import FILE, MEASURED, Measured
from mxmclr_plugin.loss.kernels.triton.suitable import unsuitable

Dtype = Literal["bfloat16", "float16", "float32"]

_16_BIT = [
    Cut(128, 128, 64, 4, 3),
    Cut(128, 64, 64, 4, 4),
    Cut(256, 64, 64, 4, 2),
    Cut(64, 128, 64, 4, 4),
    Cut(64, 128, 64, 4, 3),
]
_32_BIT = [
    Cut(128, 128, 32, 4, 3),
    Cut(128, 128, 32, 8, 3),
    Cut(128, 64, 32, 4, 4),
    Cut(64, 128, 32, 4, 4),
    Cut(128, 64, 16, 8, 2),
]
_KEPT = [
    Cut(64, 64, 64, 4, 1),
    Cut(32, 128, 64, 4, 1),
    Cut(16, 256, 64, 4, 1),
    Cut(64, 128, 64, 8, 1),
    Cut(128, 64, 64, 8, 1),
]
_PROCESSES = min(16, os.cpu_count() or 1)

_HEAD_START = 30_000_000
"""Clock cycles in which the host launches all kernels of a step."""


@dataclass
class KernelBenchmark:
    """What is tried.

    Attributes:
        n: Rows of both sides, four of each instance.
        dim: Columns.
        dtype: bfloat16, float16, float32 (with TF32), one or several.
        device: cuda, cuda:1, ...
        repeats: Steps of which the median is taken.
        processes: Cuts that are compiled at the same time.
        write: Whether to write the result into the table of this installation, which ``auto``
            heeds.
        json: File for the figures.
    """

    n: Count = 16384
    dim: Count = 512
    dtype: list[Dtype] = field(default_factory=lambda: ["bfloat16", "float16", "float32"])
    device: str = "cuda"
    repeats: Count = 5
    processes: Count = _PROCESSES
    write: bool = False
    json: str = ""


@dataclass(frozen=True)
class MeasuredCut:
    """Figures of a cut.

    Attributes:
        impl: Kernel and dtype.
        cut: Rows x columns x inner columns of a tile, warps, stages.
        seconds: Median time of the pass that has the kernel, forward or backward.
        fastest: A mark if no cut is faster.
        skipped: Why there are no figures.
    """

    impl: str
    cut: str
    seconds: float = 0.0
    fastest: str = ""
    skipped: str | None = None


def measure_kernels(
    config: KernelBenchmark, progress: Callable[[str, float], None] = lambda _what, _share: None
) -> Iterator[MeasuredCut]:
    """Times every cut of every kernel, in place of the one that is used.

    Raises:
        ValueError: If the kernels cannot be used on the device.
    """
    device = device_of(config.device)
    device = torch.device(device.type, device.index or 0)  # as tensors say it
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    for dtype in config.dtype:
        reason = unsuitable(device, getattr(torch, dtype))
        if reason is not None:
            raise ValueError(f"device={config.device} has no Triton kernels: {reason}")
    allowed = torch.backends.cuda.matmul.allow_tf32
    before = dict(MEASURED.get(name, {}))
    torch.backends.cuda.matmul.allow_tf32 = True  # without it ``auto`` takes no kernel
    try:
        trials = [(d, k, c) for d in config.dtype for k, cuts in _candidates(d) for c in cuts]
        progress("compile", 0.0)
        context = multiprocessing.get_context("spawn")
        with (
            contextlib.suppress(BrokenProcessPool),  # then they are compiled when they are timed
            ProcessPoolExecutor(config.processes, mp_context=context) as pool,
        ):
            list(pool.map(_compile, [(*trial, config.dim, device, name) for trial in trials]))
        for k, dtype in enumerate(config.dtype):

            def of_dtype(what: str, share: float = k / len(config.dtype)) -> None:
                progress(what, share)

            yield from _fastest(config, dtype, device, name, of_dtype)
        if config.write:
            _write()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
        if not config.write:
            MEASURED[name] = before


def _candidates(dtype: str) -> list[tuple[str, list[Cut]]]:
    cuts = _32_BIT if dtype == "float32" else _16_BIT
    kernels = ("logsumexp", "running_logsumexp", "weights", "running_weights")
    found = [(kernel, cuts) for kernel in kernels]
    return [*found, ("kept_weights", _KEPT)] if dtype == "bfloat16" else found


def _fastest(
    config: KernelBenchmark,
    dtype: str,
    device: torch.device,
    name: str,
    progress: Callable[[str], None],
) -> Iterator[MeasuredCut]:
    """Times the cuts of one dtype, and enters the fastest."""
    cuts = dict(_default_cuts(dtype, device))
    rows = _rows(config.n, config.dim, device, dtype)
    for kernel, candidates in _candidates(dtype):
        seconds: dict[Cut, float] = {}
        failed: dict[Cut, str] = {}
        for cut in candidates:
            progress(f"{dtype} {kernel} {_text(cut)}")
            MEASURED.setdefault(name, {})[dtype] = Measured(0.0, cuts | {kernel: cut})
            try:
                step = [_step(rows, kernel) for _ in range(config.repeats + 1)][1:]
            except Exception as error:  # it does not compile, or needs more than the device has
                failed[cut] = f"{type(error).__name__}: {first_line(error)[:100]}"
                continue
            seconds[cut] = statistics.median(s["weights" in kernel] for s in step)
        if not seconds:
            raise ValueError(f"no cut of {kernel} runs: {failed}")
        cuts[kernel] = min(seconds, key=lambda cut: seconds[cut])
        for cut, s in seconds.items():
            mark = "*" if cut == cuts[kernel] else ""
            yield MeasuredCut(f"{kernel}, {dtype}", _text(cut), s, mark)
        for cut, reason in failed.items():
            yield MeasuredCut(f"{kernel}, {dtype}, {_text(cut)}", "", skipped=reason)
    MEASURED[name][dtype] = Measured(0.0, cuts)
    total = {
        impl: statistics.median(
            [sum(_step(rows, "logsumexp", impl)) for _ in range(config.repeats + 1)][1:]
        )
        for impl in ("streaming", "triton")
    }
    speedup = round(total["streaming"] / total["triton"], 2)
    MEASURED[name][dtype] = Measured(speedup, cuts)
    for impl, s in total.items():
        yield MeasuredCut(f"{impl}, {dtype}", "", s, f"{speedup} x" if impl == "triton" else "")


def _default_cuts(dtype: str, device: torch.device) -> Cuts:
    itemsize = getattr(torch, dtype).itemsize
    return default_cuts(itemsize, torch.cuda.get_device_capability(device)[0])


def _compile(trial: tuple[str, str, Cut, int, torch.device, str]) -> None:
    """Compiles a cut in a process of its own; Triton keeps the result in its cache."""
    dtype, kernel, cut, dim, device, name = trial
    torch.backends.cuda.matmul.allow_tf32 = True
    unsuitable(device, getattr(torch, dtype))  # tried with the cuts that are used
    cuts = _default_cuts(dtype, device)
    MEASURED.setdefault(name, {})[dtype] = Measured(0.0, cuts | {kernel: cut})
    with contextlib.suppress(Exception):  # said when it is timed
        _step(_rows(1024, dim, device, dtype), kernel)


def _rows(n: int, dim: int, device: torch.device, dtype: str) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of both sides and their ids."""
    generator = torch.Generator(device).manual_seed(0)
    ids = torch.arange(n, device=device) // 4
    centres = torch.randn(n // 4 + 1, dim, device=device, generator=generator)
    z0, z1 = (
        (centres[ids] + torch.randn(n, dim, device=device, generator=generator))
        .to(getattr(torch, dtype))
        .requires_grad_()
        for _ in range(2)
    )
    return z0, z1, ids


def _step(
    rows: tuple[Tensor, Tensor, Tensor], kernel: str, impl: Implementation = "triton"
) -> tuple[float, float]:
    """Seconds of forward and of backward pass, so that the kernel is used."""
    z0, z1, ids = rows
    unbounded = kernel.startswith("running")
    temperature = torch.full((), TEMPERATURE, device=z0.device) if unbounded else TEMPERATURE
    torch.cuda._sleep(_HEAD_START)  # the device waits, so that launches are not what is timed
    start = Moment(z0.device)
    loss = multifold_hybrid_loss(
        *(z0, z1, ids, ids),
        temperature=temperature,
        impl=impl,
        cache_bytes=0 if kernel in ("weights", "running_weights") else None,
        num_instances=-(-len(ids) // 4),
        validate=False,
    )
    forward = Moment(z0.device)
    torch.autograd.grad(loss, (z0, z1))
    end = Moment(z0.device)
    return start.seconds_until(forward), forward.seconds_until(end)


def _text(cut: Cut) -> str:
    return f"{cut.rows}x{cut.columns}x{cut.inner} {cut.warps} {cut.stages}"


def _write() -> None:
    """Writes the table of all kinds of devices."""
    devices = {
        device: {dtype: {"speedup": m.speedup, "cuts": m.cuts} for dtype, m in dtypes.items()}
        for device, dtypes in sorted(MEASURED.items())
    }
    write_atomically(FILE, json_text(devices))
