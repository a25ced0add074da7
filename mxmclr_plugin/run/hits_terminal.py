"""What a search found, on a terminal."""

from __future__ import annotations

import re

from PIL import Image
from rich import box
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from mxmclr_plugin.files import short_path
from mxmclr_plugin.inference.search import Found
from mxmclr_plugin.safe_text import plain_text

_COLUMNS = 28  # of an image; a column is about half as wide as a line is high
_OTHERS = 30  # of rank, cosine, spaces and a narrow caption
_NAME = 8  # of a narrow name
_FILE = 16  # of the lines of a path, at least


def hits_table(found: Found, console: Console) -> Table:
    """Hits, a row each, with images where the terminal has colours."""
    blocks = console.encoding.lower().startswith("utf")
    images = console.is_terminal and console.color_system is not None and blocks
    # Names and paths stay whole if the caption has room beside them.
    free = console.width - _OTHERS - (_COLUMNS if images else 0)
    files = [_broken(short_path(hit.file or ""), max(free - _NAME, _FILE)) for hit in found.hits]
    file = max((len(line) for path in files for line in path.splitlines()), default=0)
    name = max((len(hit.name) for hit in found.hits), default=0)
    table = Table(
        title=plain_text(f"{found.query!r} among {found.items} items ({found.among})"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        show_lines=images,
    )
    for column in ("rank", "cosine"):
        table.add_column(column, justify="right")
    if images:
        table.add_column("image", no_wrap=True, min_width=_COLUMNS)
    table.add_column("name", overflow="fold", no_wrap=name + file <= free)
    table.add_column("caption", overflow="fold")
    if file:
        table.add_column("file", overflow="fold", no_wrap=file <= max(free - _NAME, _FILE))
    for rank, (hit, path) in enumerate(zip(found.hits, files, strict=True), start=1):
        image = half_blocks(hit.image, _COLUMNS) if hit.image else Text()
        table.add_row(
            str(rank),
            f"{hit.score:.3f}",
            *([image] if images else []),
            *map(plain_text, (hit.name, hit.caption or "")),
            *([plain_text(path)] if file else []),
        )
    return table


def _broken(path: str, width: int) -> str:
    """A path in lines that end in ``/``; they are longer than a width where a part of it is."""
    lines = [""]
    for part in re.findall(r"[^/]*/|[^/]+", path):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def half_blocks(image: Image.Image, columns: int) -> Text:
    """An image in coloured upper half blocks, two pixels each, one above the other.

    Args:
        image: The image.
        columns: Its width in characters.

    Returns:
        Lines of as many characters, half as many as would make it as high as it is.
    """
    lines = max(1, round(columns * image.height / image.width / 2))
    small = image.convert("RGB").resize((columns, 2 * lines), Image.Resampling.LANCZOS)
    text = Text(no_wrap=True)
    for line in range(lines):
        if line:
            text.append("\n")
        for column in range(columns):
            upper, lower = (small.getpixel((column, 2 * line + half)) for half in (0, 1))
            assert isinstance(upper, tuple)
            assert isinstance(lower, tuple)
            style = Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower))
            text.append("▀", style)
    return text
