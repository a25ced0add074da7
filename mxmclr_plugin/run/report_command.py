"""``report`` of the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from mxmclr_plugin.arguments import WORD
from mxmclr_plugin.bounds import Seed
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.run.command import Context
from mxmclr_plugin.safe_text import print_line


@dataclass
class ReportArguments:
    """Arguments of ``report``.

    Attributes:
        folder: Folder of a comparison, an ablation or a run, such as runs/compare/text2shape.
        out: HTML file of the report; null writes FOLDER/report.html.
        plots: Folder for the plots as files of their own.
        losses: One or two losses that are shown in detail; by default the report chooses.
        protocol: Protocol whose runs are shown; null takes the first.
        seed: Seed of the random choice of instances, and of the maps.
        trust: Whether the run's configuration may name code that is not registered.
    """

    folder: Path = field(metadata=WORD)
    out: Path | None = None
    plots: Path | None = None
    losses: list[str] = field(default_factory=list)
    protocol: str | None = None
    seed: Seed = 0
    trust: bool = False

    def __post_init__(self) -> None:
        self.losses = list(dict.fromkeys(self.losses))
        if len(self.losses) > 2:
            raise ConfigError(f"losses takes one or two, got {', '.join(self.losses)}")
        if not self.folder.is_dir():
            raise ConfigError(f"there is no folder {self.folder}")


def report_command(arguments: ReportArguments, context: Context) -> int:
    """Writes the report of a folder; returns 0.

    Raises:
        ConfigError: If a package is missing, or the folder cannot be reported on.
    """
    for package in ("matplotlib", "sklearn"):
        if find_spec(package) is None:
            raise ConfigError(
                f"report needs {package}, which is not installed: pip install "
                "'mxmclr-plugin[report]'"
            )
    from mxmclr_plugin.report.build import build_report
    from mxmclr_plugin.report.svg import is_generated

    console, out = context.console, arguments.out or arguments.folder / "report.html"
    if out.is_dir() or (out.exists() and not is_generated(out)):
        raise ConfigError(f"out: {out} is there already and is not a report; give another file")
    report = build_report(
        arguments.folder,
        arguments.losses,
        arguments.protocol,
        arguments.seed,
        console,
        arguments.trust,
    )
    write_atomically(out, report.html())
    print_line(console, f"written to {out}")
    if arguments.plots is not None:
        files = report.save_plots(arguments.plots)
        print_line(console, f"{len(files)} files of plots in {arguments.plots}")
    return 0
