"""The command line of the benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table
from rich.text import Text

from mxmclr_plugin.arguments import help_rows, parse_arguments
from mxmclr_plugin.benchmark.loss import LossBenchmark, Measured, Progress, measure_losses
from mxmclr_plugin.benchmark.retrieval import (
    MeasuredRetrieval,
    RetrievalBenchmark,
    measure_retrieval,
)
from mxmclr_plugin.benchmark.startup import MeasuredStartup, StartupBenchmark, measure_startup
from mxmclr_plugin.benchmark.step import MeasuredStep, StepBenchmark, measure_steps
from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.json_records import json_text
from mxmclr_plugin.registry import did_you_mean
from mxmclr_plugin.safe_text import TerminalConsole, visible

__all__ = ["main"]


class _Benchmark(NamedTuple):
    summary: str
    config: type[Any]
    measure: Callable[[Any, Progress], Iterator[Any]]
    table: Callable[[Sequence[Any]], Table]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Arguments; None takes those of the process.

    Returns:
        The exit status: 0, 2 if the arguments cannot be used, 130 if interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    console, errors = TerminalConsole(), TerminalConsole(stderr=True)
    if not arguments or set(arguments) & {"-h", "--help"}:
        _show_help(console, [name for name in _BENCHMARKS if name in arguments])
        return 0 if arguments else 2
    name, *rest = arguments
    try:
        if name not in _BENCHMARKS:
            raise ValueError(
                f"there is no benchmark {name!r}: {did_you_mean(name, _BENCHMARKS)}"
                f"there are {', '.join(_BENCHMARKS)}"
            )
        benchmark = _BENCHMARKS[name]
        config, _ = parse_arguments(name, benchmark.config, rest)
        every = _measure(benchmark, config, console)
        skipped = [m for m in every if getattr(m, "skipped", None) is not None]
        measured = [m for m in every if m not in skipped]
        if config.json:
            _write(Path(config.json), measured)
        console.print(benchmark.table(measured))
        for m in skipped:
            size = f" at n = {m.n}" if hasattr(m, "n") else ""
            console.print(f"{m.impl}{size} was skipped: {m.skipped}")
    except (ValueError, OSError) as error:
        errors.print(
            Text.assemble(("error:", "bold red"), f" {visible(str(error))}"), soft_wrap=True
        )
        return 2
    except KeyboardInterrupt:
        errors.print("interrupted")
        return 130
    return 0


def _show_help(console: Console, names: Sequence[str]) -> None:
    console.print("usage: python -m mxmclr_plugin.benchmark NAME [key=value ...]\n")
    for name in names or _BENCHMARKS:
        console.print(f"{name}: {_BENCHMARKS[name].summary}")
        grid = Table.grid(padding=(0, 2))
        for key, _, text in help_rows(_BENCHMARKS[name].config):
            grid.add_row(f"  {key}", text)
        console.print(grid)


def _measure(benchmark: _Benchmark, config: Any, console: Console) -> list[Any]:
    if not console.is_terminal:
        return list(benchmark.measure(config, lambda _what, _share: None))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with ProgressBar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0)

        def progress(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        return list(benchmark.measure(config, progress))


def _write(path: Path, measured: Iterable[Any]) -> None:
    records = [
        {k: v for k, v in asdict(of).items() if k not in ("spread_s", "skipped")} for of in measured
    ]
    write_atomically(path, json_text(records))


def _loss_table(measured: Sequence[Measured]) -> Table:
    # Names of losses are whole on a terminal of 80 columns.
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in (
        "n",
        "loss",
        "forward s",
        "total s",
        "spread",
        "extra\nMB",
        "matmul\nshare",
        "error",
    ):
        table.add_column(
            column, justify="left" if column == "loss" else "right", no_wrap=column == "loss"
        )
    for k, m in enumerate(measured):
        last = k + 1 == len(measured) or measured[k + 1].n != m.n
        row = [
            str(m.n),
            m.impl,
            f"{m.forward_s:.4f}",
            f"{m.total_s:.4f}",
            f"{m.spread_s:.4f}",
            "" if m.peak_extra_bytes is None else f"{m.peak_extra_bytes / 1e6:.1f}",
            "" if m.matmul_share is None else f"{m.matmul_share:.0%}",
            "" if m.max_relative_error is None else f"{m.max_relative_error:.0e}",
        ]
        table.add_row(*row, end_section=last)
    return table


def _retrieval_table(measured: Sequence[MeasuredRetrieval]) -> Table:
    table = Table()
    for column in ("search", "seconds", "GFLOP/s", "extra MB", "disagreement"):
        table.add_column(column, justify="left" if column == "search" else "right")
    for m in measured:
        row = [
            m.impl,
            f"{m.seconds:.2f}",
            f"{m.gflops:.0f}",
            "" if m.peak_extra_bytes is None else f"{m.peak_extra_bytes / 1e6:.1f}",
            f"{m.disagreement:.0e}",
        ]
        table.add_row(*row)
    return table


def _startup_table(measured: Sequence[MeasuredStartup]) -> Table:
    table = Table()
    for column in ("program", "seconds", "of import torch"):
        table.add_column(column, justify="left" if column == "program" else "right")
    for m in measured:
        table.add_row(m.impl, f"{m.seconds:.2f}", f"{m.ratio:.2f}")
    return table


def _step_table(measured: Sequence[MeasuredStep]) -> Table:
    table = Table()
    for column in ("n", "step", "seconds", "extra MB"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for m in measured:
        extra = "" if m.peak_extra_bytes is None else f"{m.peak_extra_bytes / 1e6:.0f}"
        table.add_row(str(m.n), m.impl, f"{m.seconds:.2f}", extra)
    return table


_BENCHMARKS = {
    "loss": _Benchmark(
        "Time, memory and error of loss implementations, interleaved in one run.",
        LossBenchmark,
        measure_losses,
        _loss_table,
    ),
    "retrieval": _Benchmark(
        "Time, memory and agreement of retrieval over a large gallery.",
        RetrievalBenchmark,
        measure_retrieval,
        _retrieval_table,
    ),
    "startup": _Benchmark(
        "Start-up time of imports and commands, relative to import torch.",
        StartupBenchmark,
        measure_startup,
        _startup_table,
    ),
    "step": _Benchmark(
        "Time and memory of a training step of two towers, whole and in chunks.",
        StepBenchmark,
        measure_steps,
        _step_table,
    ),
}
