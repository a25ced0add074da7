"""Build the report on a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mxmclr_plugin.comparison.records import Ablation, Comparison
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.run_folder.metrics import RunMetrics
from mxmclr_plugin.json_records import read_record
from mxmclr_plugin.report.blocks import Block, Details, Plot
from mxmclr_plugin.report.page import WIDTHS, Page, page_html
from mxmclr_plugin.report.palette import series_styles
from mxmclr_plugin.report.qualitative import qualitative_sections
from mxmclr_plugin.report.result_sections import (
    ablation_sections,
    appendix,
    comparison_sections,
)
from mxmclr_plugin.report.run_sections import run_appendix, run_sections
from mxmclr_plugin.report.shown_runs import (
    choose_from_ablation,
    choose_from_comparison,
    choose_run,
)
from mxmclr_plugin.report.svg import is_generated, plot_files, save_figure
from mxmclr_plugin.safe_text import TerminalConsole


@dataclass(frozen=True)
class Report:
    """A report on a comparison, an ablation or a run."""

    page: Page

    def html(self) -> str:
        """The page as one self-contained HTML file."""
        return page_html(self.page)

    def save_plots(self, folder: Path) -> list[Path]:
        """Write every plot as PNG and SVG; returns the files.

        Raises:
            ConfigError: If another file would be overwritten; nothing is written then.
        """
        plots = [plot for section in self.page.sections for plot in _plots(section.blocks)]
        for path in (path for plot in plots for path in plot_files(folder, plot.name)):
            if path.exists() and not is_generated(path):
                raise ConfigError(
                    f"plots: {path} is there already and is not a plot of a report; give another "
                    "folder"
                )
        return [
            path
            for plot in plots
            for path in save_figure(plot.draw(WIDTHS["wide"]), folder, plot.name)
        ]


def build_report(
    folder: Path,
    losses: Sequence[str] = (),
    protocol: str | None = None,
    seed: int = 0,
    console: Console | None = None,
    trust: bool = False,
) -> Report:
    """Build the report on a folder.

    Args:
        folder: Of a comparison (``compare.json``), an ablation (``ablate.json``) or a run
            (``metrics.json``).
        losses: Losses of a comparison that are shown in detail; by default the best one and the
            baseline.
        protocol: Protocol under which they are shown; by default the first.
        seed: Seed of random draws and of the maps.
        console: Where data that are left out are reported.
        trust: Whether the configuration of a run may name code that is not registered.

    Raises:
        ConfigError: If the folder is none of these, a file in it cannot be read, or there is no
            such loss or protocol.
    """
    console = console or TerminalConsole(stderr=True)
    if not (folder / "compare.json").is_file() and (losses or protocol is not None):
        raise ConfigError("losses and protocol are of a comparison, which has a compare.json")
    if (folder / "compare.json").is_file():
        comparison = read_record(Comparison, folder / "compare.json")
        compared, protocols = comparison.axes["loss"], comparison.axes["protocol"]
        styles = series_styles(compared)
        shown = choose_from_comparison(comparison, folder, losses, protocol)
        page = Page(
            f"Losses compared on {comparison.task}",
            f"losses {', '.join(compared)}; protocols {', '.join(protocols)}; "
            f"seeds {', '.join(map(str, comparison.seeds))}",
            [
                *comparison_sections(comparison, folder, styles),
                *qualitative_sections(shown, styles, seed, console, trust),
                appendix(comparison, styles),
            ],
        )
    elif (folder / "ablate.json").is_file():
        ablation = read_record(Ablation, folder / "ablate.json")
        shown = choose_from_ablation(ablation, folder)
        page = Page(
            f"Ablation {ablation.study} on {ablation.task}",
            ablation.title,
            [
                *ablation_sections(ablation, folder),
                *qualitative_sections(shown, {}, seed, console, trust),
                appendix(ablation, {}),
            ],
        )
    elif (folder / "metrics.json").is_file():
        run = read_record(RunMetrics, folder / "metrics.json")
        shown, styles = choose_run(run, folder), series_styles([run.loss])
        page = Page(
            f"{run.loss} on {run.task}",
            f"one run, seed {run.seed}",
            [
                *run_sections(run, folder),
                *qualitative_sections(shown, styles, seed, console, trust),
                run_appendix(run),
            ],
        )
    else:
        raise ConfigError(
            f"{folder} is no folder of a comparison (compare.json), an ablation (ablate.json) or a "
            "finished run (metrics.json)"
        )
    return Report(page)


def _plots(blocks: Sequence[Block]) -> Iterator[Plot]:
    for block in blocks:
        if isinstance(block, Plot):
            yield block
        elif isinstance(block, Details):
            yield from _plots(block.blocks)
