"""Texts of unknown origin (captions, names, paths, configurations), safe where they are written.

HTML is escaped by ``html.escape`` and by jinja's autoescape; these functions are for the rest.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

from rich.console import Console
from rich.text import Text

# C0 and C1 controls but tab and line feed, those that turn the direction of text, and what stands
# for the bytes of a file name that is no text.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class TerminalConsole(Console):
    """Console that prints strings as they are: no markup, emoji codes or control sequences.

    Styles are set by ``style=`` or by a ``Text`` of :func:`visible` strings.

    Args:
        options: Of :class:`rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        return super().render_str(visible(text), **options)


def visible(text: str) -> str:
    r"""A text with control characters written out: ``\x1b``."""
    return _CONTROLS.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def plain_text(text: str) -> Text:
    """A text for any console, whatever that takes for markup."""
    return Text(visible(text))


def print_line(console: Console, text: str) -> None:
    """Prints a text as one line, whatever the width of the terminal."""
    console.print(text, soft_wrap=True)


def csv_cell(value: Any) -> Any:
    """A value for a CSV file that no spreadsheet takes for a formula: ``'=1+1``."""
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value


def identifier(text: str) -> str:
    """Letters, digits, ``-``, ``_`` and ``.`` of a text, for ids and file names; others differ."""
    plain = re.sub(r"[^A-Za-z0-9_.-]|^\.+", "", text)
    return (
        plain
        if plain == text
        else f"{plain}-{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"
    )
