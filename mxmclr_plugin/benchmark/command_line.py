"""The command line of the benchmark."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from mxmclr_plugin.benchmark.loss import LossBenchmark, Measured, Progress, measure_losses
from mxmclr_plugin.benchmark.retrieval import (
    MeasuredRetrieval,
    RetrievalBenchmark,
    measure_retrieval,
)
from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.registry import did_you_mean

__all__ = ["main"]

_USAGE = """\
usage: python -m mxmclr_plugin.benchmark NAME [key=value ...]
"""


class _Measured(Protocol):
    @property
    def impl(self) -> str: ...
    @property
    def skipped(self) -> str | None: ...
    def record(self) -> dict[str, object]: ...


class _Benchmark(NamedTuple):
    summary: str
    config: type[Any]
    measure: Callable[[Any, Progress], Iterator[Any]]
    table: Callable[[Sequence[Any]], Table]
    lists: tuple[str, ...] = ()  # keys that take one value or several


def main(arguments: Sequence[str]) -> int:
    """Runs the command line.

    Args:
        arguments: What stands behind ``python -m mxmclr_plugin.benchmark``.

    Returns:
        The exit status: 0, 2 if what was asked cannot be done, 130 if interrupted.
    """
    console, errors = Console(), Console(stderr=True)
    benchmarks = _benchmarks()
    if not arguments or set(arguments) & {"-h", "--help"}:
        asked = [name for name in benchmarks if name in arguments]
        console.print(_USAGE, markup=False)
        for name in asked or benchmarks:
            console.print(f"{name}: {benchmarks[name].summary}", markup=False)
            defaults = OmegaConf.to_yaml(OmegaConf.structured(benchmarks[name].config))
            console.print(textwrap.indent(defaults, "  "), markup=False)
        return 0 if arguments else 2
    try:
        if arguments[0] not in benchmarks:
            raise ValueError(
                f"there is no benchmark {arguments[0]!r}, there is: {', '.join(benchmarks)}"
            )
        benchmark = benchmarks[arguments[0]]
        config = _config(benchmark, arguments[1:])
        measured = _measure(benchmark, config, console)
        if config.json:
            _write(Path(config.json), measured)
        console.print(benchmark.table([m for m in measured if m.skipped is None]))
        for m in measured:
            if m.skipped is not None:
                size = f" at n = {m.n}" if hasattr(m, "n") else ""
                console.print(f"{m.impl}{size} was skipped: {m.skipped}", markup=False)
    except (ValueError, OSError) as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("interrupted")
        return 130
    return 0


def _benchmarks() -> dict[str, _Benchmark]:
    return {
        "loss": _Benchmark(
            "Time, memory and error of loss implementations, interleaved in one run.",
            LossBenchmark,
            measure_losses,
            _loss_table,
            ("n", "impls"),
        ),
        "retrieval": _Benchmark(
            "Time, memory and agreement of retrieval over a large gallery.",
            RetrievalBenchmark,
            measure_retrieval,
            _retrieval_table,
        ),
    }


def _config(benchmark: _Benchmark, arguments: Sequence[str]) -> Any:
    known = [field.name for field in fields(benchmark.config)]
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if not equals:
            raise ValueError(f"{argument!r} is not of the form key=value")
        if key not in known:
            raise ValueError(
                f"there is no key {key!r}; {did_you_mean(key, known)}there are {', '.join(known)}"
            )
    try:
        given = OmegaConf.from_dotlist(list(arguments))
        for key in benchmark.lists:
            if key in given and not OmegaConf.is_list(given[key]):
                given[key] = [given[key]]
        if isinstance(given.get("folds"), int):
            given.folds = [given.folds, given.folds]
        merged = OmegaConf.merge(OmegaConf.structured(benchmark.config), given)
    except OmegaConfBaseException as error:
        where, message = getattr(error, "full_key", None), str(error).splitlines()[0]
        raise ValueError(f"{where}: {message}" if where else message) from None
    return OmegaConf.to_object(merged)


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


def _write(path: Path, measured: Iterable[_Measured]) -> None:
    """Writes the figures; the file is there in full or not at all."""
    records = [figures.record() for figures in measured if figures.skipped is None]
    write_atomically(path, json.dumps(records, indent=1) + "\n")


def _loss_table(measured: Sequence[Measured]) -> Table:
    table = Table()
    for column in (
        "n",
        "loss",
        "forward s",
        "total s",
        "spread",
        "extra MB",
        "matmul share",
        "error",
    ):
        table.add_column(column, justify="left" if column == "loss" else "right")
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
        table.add_row(*map(escape, row), end_section=last)
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
        table.add_row(*map(escape, row))
    return table
