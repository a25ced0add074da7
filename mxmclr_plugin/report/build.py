"""The report on a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.report.blocks import Block, Details, Plot
from mxmclr_plugin.report.contents.ablation import read_ablation
from mxmclr_plugin.report.contents.comparison import read_comparison
from mxmclr_plugin.report.contents.single_run import read_run
from mxmclr_plugin.report.page import WIDTHS, Page, page_html
from mxmclr_plugin.report.palette import series_styles
from mxmclr_plugin.report.sections.ablation import ablation_appendix, ablation_sections
from mxmclr_plugin.report.sections.comparison import comparison_appendix, comparison_sections
from mxmclr_plugin.report.sections.qualitative import qualitative_sections
from mxmclr_plugin.report.sections.single_run import run_appendix, run_sections
from mxmclr_plugin.report.shown_runs import shown_of_ablation, shown_of_comparison, shown_of_run
from mxmclr_plugin.report.svg import save_figure

__all__ = ["Report", "build_report"]


@dataclass(frozen=True)
class Report:
    """A report."""

    page: Page

    def html(self) -> str:
        """Its text, one file that needs nothing beside it."""
        return page_html(self.page)

    def save_plots(self, folder: Path) -> list[Path]:
        """Writes every plot as PNG and SVG; returns the files."""
        blocks = [block for section in self.page.sections for block in section.blocks]
        return [
            path
            for plot in _plots(blocks)
            for path in save_figure(plot.draw(WIDTHS["wide"]), folder, plot.name)
        ]


def build_report(
    folder: Path,
    losses: Sequence[str] = (),
    protocol: str | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> Report:
    """Reports on a folder.

    Args:
        folder: Of a comparison (``compare.json``), an ablation (``ablate.json``) or a run
            (``metrics.json``).
        losses: Of a comparison, those shown in images; by default the best one beside the
            baseline.
        protocol: Of a comparison, that of which they are shown; by default the first.
        seed: Of what is drawn by chance, and of maps.
        console: Where to say what is left out of the data.

    Raises:
        ConfigError: If the folder is none of these, a file in it cannot be read, or there is no
            such loss or protocol.
    """
    console = console or Console(stderr=True)
    if not (folder / "compare.json").is_file() and (losses or protocol is not None):
        raise ConfigError("losses and protocol are of a comparison, which has a compare.json")
    if (folder / "compare.json").is_file():
        comparison = read_comparison(folder / "compare.json")
        styles = series_styles(comparison.losses)
        shown = shown_of_comparison(comparison, losses, protocol)
        page = Page(
            f"Losses compared on {comparison.task}",
            f"losses {', '.join(comparison.losses)}; protocols {', '.join(comparison.protocols)}; "
            f"seeds {', '.join(comparison.seeds)}",
            [
                *comparison_sections(comparison, styles),
                *qualitative_sections(shown, styles, seed, console),
                *comparison_appendix(comparison, styles),
            ],
        )
    elif (folder / "ablate.json").is_file():
        ablation = read_ablation(folder / "ablate.json")
        page = Page(
            f"Ablation {ablation.study} on {ablation.task}",
            ablation.title,
            [
                *ablation_sections(ablation),
                *qualitative_sections(shown_of_ablation(ablation), {}, seed, console),
                *ablation_appendix(ablation),
            ],
        )
    elif (folder / "metrics.json").is_file():
        run = read_run(folder)
        styles = series_styles([run.loss])
        page = Page(
            f"{run.loss} on {run.task}",
            f"one run, seed {run.seed}",
            [
                *run_sections(run),
                *qualitative_sections(shown_of_run(run), styles, seed, console),
                *run_appendix(run),
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
