"""A figure as SVG inside a page that is light or dark, and as files."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from html import escape
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.text import Text

from mxmclr_plugin.files import replacing
from mxmclr_plugin.report.palette import PALETTE
from mxmclr_plugin.safe_text import identifier

GENERATOR = "mxmclr_plugin report"
"""By which pages and plots are known, so that nothing else is overwritten."""

_HEAD = 2000
"""Bytes at the beginning of such a file that name its generator."""

_OTHER_SCRIPTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans Arabic", "Noto Sans Hebrew"),
    *("Noto Sans Devanagari", "Noto Sans Thai", "WenQuanYi Zen Hei", "Arial Unicode MS"),
    *("PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Malgun Gothic"),
)
"""Fonts of systems for letters that matplotlib's own font does not have."""

_NOTHING = {"Date": None, "Creator": None, "Format": None, "Type": None}
_VARIABLE_OF = {light: f"var(--{name})" for name, (light, _) in PALETTE.items()}


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """An ``svg`` element for a page that has the palette's CSS variables.

    Args:
        figure: Drawn in the light colours of the palette.
        name: Begins every id in it, so that ids of several figures on a page differ.
        description: Text for screen readers.
    """
    name = identifier(name)
    text = _svg(figure)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(
        r"#[0-9a-f]{6}\b", lambda found: _VARIABLE_OF.get(found.group(), found.group()), text
    )
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    width = figure.get_figwidth() * 96
    attributes = (
        f'class="plot" role="img" aria-label="{escape(description)}" '
        f'style="max-width: {width:.0f}px" viewBox='
    )
    return re.sub(
        r'<svg[^>]*? viewBox=("[^"]*")[^>]*>',
        lambda found: f"<svg {attributes}{found[1]}>",
        text,
        count=1,
    )


def plot_files(folder: Path, name: str) -> list[Path]:
    """The files of a plot: ``<name>.png`` and ``<name>.svg``."""
    return [folder / f"{identifier(name)}.{kind}" for kind in ("png", "svg")]


def is_generated(file: Path) -> bool:
    """Whether a file is a page or a plot of a report, which can be made anew."""
    with file.open("rb") as content:
        return GENERATOR.encode() in content.read(_HEAD)


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes a plot as PNG, 200 dots an inch, and as SVG, on white; returns the files."""
    png, svg = plot_files(folder, name)
    with _writing(figure), replacing(png) as file:
        figure.savefig(
            file, format="png", dpi=200, facecolor="white", metadata={"Software": GENERATOR}
        )
    with _writing(figure), replacing(svg) as file:
        metadata = {**_NOTHING, "Creator": GENERATOR}
        figure.savefig(file, format="svg", facecolor="white", metadata=metadata)
    return [png, svg]


@contextmanager
def _writing(figure: Figure) -> Iterator[None]:
    families = _families()
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)  # A dollar sign in a name begins no formula.
        text.set_fontfamily(families)
    # Text stays text: it can be read aloud, found and copied.
    written = mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "mxmclr", "text.parse_math": False}
    )
    with written, warnings.catch_warnings():
        # A page is drawn with the fonts of its reader; a PNG has a box for the letter.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


@cache
def _families() -> list[str]:
    """Matplotlib's font, and those of other scripts that are installed."""
    installed = set(get_font_names())
    return ["DejaVu Sans", *(name for name in _OTHER_SCRIPTS if name in installed)]


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with _writing(figure):
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NOTHING)
    return buffer.getvalue()
