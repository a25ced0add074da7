"""What a search found, on a terminal."""

from __future__ import annotations

from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from mxmclr_plugin.files import short_path
from mxmclr_plugin.inference.search import Found
from mxmclr_plugin.safe_text import plain_text

_COLUMNS = 28  # of an image; a column is about half as wide as a line is high
_FILE = 36  # of a path that is not broken


def hits_table(found: Found, console: Console) -> Table:
    """Hits, a row each, with images where the terminal has colours."""
    blocks = console.encoding.lower().startswith("utf")
    images = console.is_terminal and console.color_system is not None and blocks
    files = [short_path(hit.file) for hit in found.hits if hit.file]
    table = Table(
        title=plain_text(f"{found.query!r} among {found.items} items ({found.among})"),
        show_lines=images,
    )
    for column in ("rank", "cosine"):
        table.add_column(column, justify="right")
    if images:
        table.add_column("image", no_wrap=True, min_width=_COLUMNS)
    for column in ("name", "caption"):
        table.add_column(column, overflow="fold")
    if files:
        # A short path stays in one line, and the caption gives way.
        width = min(max(map(len, files)), _FILE)
        table.add_column("file", overflow="fold", min_width=width)
    for rank, hit in enumerate(found.hits, start=1):
        image = half_blocks(hit.image, _COLUMNS) if hit.image else Text()
        table.add_row(
            str(rank),
            f"{hit.score:.3f}",
            *([image] if images else []),
            *map(plain_text, (hit.name, hit.caption or "")),
            *([plain_text(short_path(hit.file or ""))] if files else []),
        )
    return table


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
