"""Start-up time of imports and commands, relative to ``import torch``."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mxmclr_plugin.bounds import Count
from mxmclr_plugin.errors import ConfigError

TORCH = "import torch"

_PROGRAMS = {
    TORCH: ["-c", "import torch"],
    "import mxmclr_plugin": ["-c", "import mxmclr_plugin"],
    "import of all public names": ["-c", "from mxmclr_plugin import *"],
    **{
        f"mxmclr {arguments}": ["-m", "mxmclr_plugin.run", *arguments.split()]
        for arguments in (
            *("--help", "list losses", "list towers", "list data", "list tasks", "list studies"),
            *("text2shape --help", "search --help", "text2shape loss.temperture=1"),
        )
    },
}


@dataclass
class StartupBenchmark:
    """Options of the benchmark.

    Attributes:
        repeats: Rounds; in each every program runs once, in random order.
        run: Folder of a finished run; if given, a second search on it is measured as well.
        json: File for the times.
    """

    repeats: Count = 3
    run: Path | None = None
    json: Path | None = None


@dataclass(frozen=True)
class MeasuredStartup:
    """Time of a program.

    Attributes:
        impl: Program.
        seconds: Median of its wall time.
        ratio: The same over that of ``import torch`` in the same rounds.
    """

    impl: str
    seconds: float
    ratio: float


def measure_startup(
    config: StartupBenchmark, progress: Callable[[str, float], None] = lambda _what, _share: None
) -> Iterator[MeasuredStartup]:
    """Measures every program in a process of its own.

    Raises:
        ConfigError: If the run cannot be searched.
    """
    programs = dict(_PROGRAMS)
    if config.run is not None:
        search = ["-m", "mxmclr_plugin.run", "search", "a red chair", f"ckpt={config.run}"]
        programs["mxmclr search, the second time"] = search
        done = _finished(search)
        if done.returncode:
            raise ConfigError(f"run: {done.stderr.strip() or 'the search failed'}")
    times: dict[str, list[float]] = {name: [] for name in programs}
    for round_ in range(config.repeats):
        for k, name in enumerate(random.sample(list(programs), len(programs))):
            progress(name, (round_ + k / len(programs)) / config.repeats)
            times[name].append(_seconds(programs[name]))
    medians = {name: statistics.median(of) for name, of in times.items()}
    for name, seconds in medians.items():
        yield MeasuredStartup(name, seconds, seconds / medians[TORCH])


def _seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    _finished(arguments)
    return time.perf_counter() - start


def _finished(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
