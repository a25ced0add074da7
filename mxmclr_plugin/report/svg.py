"""A figure as SVG inside a page that is light or dark, and as files."""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from html import escape
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text

from mxmclr_plugin.report.palette import PALETTE
from mxmclr_plugin.safe_text import identifier

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


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes ``<name>.png``, 200 dots an inch, and ``<name>.svg``, on white."""
    name = identifier(name)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with _writing(figure):
        figure.savefig(paths[0], dpi=200, facecolor="white")
        figure.savefig(paths[1], facecolor="white", metadata=_NOTHING)
    return paths


def _writing(figure: Figure) -> AbstractContextManager[None]:
    # A dollar sign in a name begins no formula.
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
    # Text stays text: it can be read aloud, found and copied.
    return mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "mxmclr", "text.parse_math": False}
    )


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with _writing(figure):
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NOTHING)
    return buffer.getvalue()
