"""The page: one HTML file with its style, script, plots and images inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mxmclr_plugin.report.blocks import Plot, Section
from mxmclr_plugin.report.palette import PALETTE
from mxmclr_plugin.report.svg import GENERATOR, inline_svg

WIDTHS = {"wide": 10.4, "narrow": 3.7}
"""Inches of the two forms of a plot; the page shows one of them."""


@dataclass(frozen=True)
class Page:
    """What the page says: title, a line below it, parts."""

    title: str
    subtitle: str
    sections: Sequence[Section]


def page_html(page: Page) -> str:
    """The file's text. All texts are escaped."""
    environment = Environment(
        loader=PackageLoader("mxmclr_plugin.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    here = files("mxmclr_plugin.report")
    return environment.get_template("page.html.jinja").render(
        page=page,
        generator=GENERATOR,
        style=Markup(_variables() + (here / "page.css").read_text(encoding="utf-8")),
        script=Markup((here / "page.js").read_text(encoding="utf-8")),
        forms=_forms,
    )


def _forms(plot: Plot) -> dict[str, Markup]:
    return {
        form: Markup(inline_svg(plot.draw(width), f"{plot.name}-{form}", plot.description))
        for form, width in WIDTHS.items()
    }


def _variables() -> str:
    """The palette as CSS: by the system's scheme, unless the page's button says another."""
    light = "".join(f"--{name}:{pair[0]};" for name, pair in PALETTE.items())
    dark = "".join(f"--{name}:{pair[1]};" for name, pair in PALETTE.items())
    return (
        f":root{{color-scheme:light;{light}}}\n"
        "@media (prefers-color-scheme: dark){"
        f":root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}\n"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}\n"
    )
