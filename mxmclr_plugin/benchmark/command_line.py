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
from mxmclr_plugin.benchmark.kernels import KernelBenchmark, measure_kernels
from mxmclr_plugin.benchmark.loss import LossBenchmark, Progress, measure_losses
from mxmclr_plugin.benchmark.retrieval import RetrievalBenchmark, measure_retrieval
from mxmclr_plugin.benchmark.startup import StartupBenchmark, measure_startup
from mxmclr_plugin.benchmark.step import StepBenchmark, measure_steps
from mxmclr_plugin.errors import is_out_of_memory
from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.json_records import json_text
from mxmclr_plugin.registry import check_known
from mxmclr_plugin.safe_text import TerminalConsole, visible


class _Column(NamedTuple):
    """A column of figures: its title, the attribute, and how that is written, in which unit."""

    title: str
    attribute: str
    form: str
    unit: float = 1

    def cell(self, record: Any) -> str:
        value = getattr(record, self.attribute)
        if value is None or isinstance(value, str):
            return value or ""
        return format(value / self.unit, self.form)


class _Benchmark(NamedTuple):
    summary: str
    config: type[Any]
    measure: Callable[[Any, Progress], Iterator[Any]]
    subject: str
    columns: Sequence[_Column]


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
        _show_help(console, [name for name in BENCHMARKS if name in arguments])
        return 0 if arguments else 2
    name, *rest = arguments
    try:
        check_known("unknown benchmark", name, BENCHMARKS)
        benchmark = BENCHMARKS[name]
        config, _ = parse_arguments(name, benchmark.config, rest)
        every = _measure(benchmark, config, console)
        skipped = [m for m in every if getattr(m, "skipped", None) is not None]
        measured = [m for m in every if m not in skipped]
        if config.json:
            _write(Path(config.json), measured)
        console.print(table_of(benchmark, measured))
        for m in skipped:
            size = f" at n = {m.n}" if hasattr(m, "n") else ""
            console.print(f"{m.impl}{size} was skipped: {m.skipped}")
    except (ValueError, OSError) as error:
        _print_error(errors, str(error))
        return 2
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        _print_error(errors, "there is not enough memory: choose smaller sizes")
        return 2
    except KeyboardInterrupt:
        errors.print("interrupted")
        return 130
    return 0


def _print_error(errors: Console, message: str) -> None:
    errors.print(Text.assemble(("error:", "bold red"), f" {visible(message)}"), soft_wrap=True)


def _show_help(console: Console, names: Sequence[str]) -> None:
    console.print("usage: python -m mxmclr_plugin.benchmark NAME [key=value ...]\n")
    for name in names or BENCHMARKS:
        console.print(f"{name}: {BENCHMARKS[name].summary}")
        grid = Table.grid(padding=(0, 2))
        for key, _, text in help_rows(BENCHMARKS[name].config):
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


def table_of(benchmark: _Benchmark, measured: Sequence[Any]) -> Table:
    """The figures as a table, without columns in which no record has one."""
    columns = [
        column
        for column in benchmark.columns
        if not measured or any(getattr(m, column.attribute) is not None for m in measured)
    ]
    # Names of losses are whole on a terminal of 80 columns.
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(benchmark.subject, no_wrap=True)
    for column in columns:
        table.add_column(column.title, justify="right")
    sizes = [getattr(m, "n", None) for m in measured]
    for m, size, following in zip(measured, sizes, [*sizes[1:], None], strict=True):
        cells = [column.cell(m) for column in columns]
        table.add_row(m.impl, *cells, end_section=size != following)
    return table


BENCHMARKS = {
    "loss": _Benchmark(
        "Time, memory and error of loss implementations, interleaved in one run.",
        LossBenchmark,
        measure_losses,
        "loss",
        [
            _Column("n", "n", ".0f"),
            _Column("forward\ns", "forward_s", ".4f"),
            _Column("total\ns", "total_s", ".4f"),
            _Column("device\ns", "device_s", ".4f"),
            _Column("spread", "spread_s", ".4f"),
            _Column("extra\nMB", "peak_extra_bytes", ".1f", 1e6),
            _Column("matmul\nshare", "matmul_share", ".0%"),
            _Column("error", "max_relative_error", ".0e"),
        ],
    ),
    "kernels": _Benchmark(
        "The fastest cut of each Triton kernel on a CUDA device; fills the table of devices.",
        KernelBenchmark,
        measure_kernels,
        "kernel",
        [
            _Column("cut, warps, stages", "cut", ""),
            _Column("seconds", "seconds", ".5f"),
            _Column("fastest", "fastest", ""),
        ],
    ),
    "retrieval": _Benchmark(
        "Time, memory and agreement of retrieval over a large gallery.",
        RetrievalBenchmark,
        measure_retrieval,
        "search",
        [
            _Column("seconds", "seconds", ".2f"),
            _Column("GFLOP/s", "gflops", ".0f"),
            _Column("matmul\nshare", "matmul_share", ".0%"),
            _Column("extra MB", "peak_extra_bytes", ".1f", 1e6),
            _Column("disagreement", "disagreement", ".0e"),
        ],
    ),
    "startup": _Benchmark(
        "Start-up time of imports and commands, relative to import torch.",
        StartupBenchmark,
        measure_startup,
        "program",
        [_Column("seconds", "seconds", ".2f"), _Column("of import torch", "ratio", ".2f")],
    ),
    "step": _Benchmark(
        "Time and memory of a training step of two towers, and the share of the loss in it.",
        StepBenchmark,
        measure_steps,
        "step",
        [
            _Column("n", "n", ".0f"),
            _Column("seconds", "seconds", ".4f"),
            _Column("loss s", "loss_seconds", ".4f"),
            _Column("loss\nshare", "loss_share", ".1%"),
            _Column("optimizer\ns", "optimizer_seconds", ".4f"),
            _Column("GPU\nidle", "gpu_idle", ".1%"),
            _Column("host\nwaits", "host_waits", ".0f"),
            _Column("extra MB", "peak_extra_bytes", ".0f", 1e6),
        ],
    ),
}
