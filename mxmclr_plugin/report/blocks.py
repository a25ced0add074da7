"""Blocks of a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class TableCell:
    """A cell of a table.

    Attributes:
        text: Its text.
        number: Whether it is a number, set to the right.
        swatch: CSS variable of a colour to show before it.
        tone: ``"good"``, ``"bad"``, ``"quiet"``, ``"best"`` or nothing.
    """

    text: str
    number: bool = False
    swatch: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[TableCell]]
    note: str = ""


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        name: Name of its files, and of its ids on the page.
        title: Above it, empty for none.
        caption: Below it.
        description: Text for readers who do not see it.
        draw: Draws the figure at a width in inches.
    """

    kind: ClassVar[str] = "plot"
    name: str
    title: str
    caption: str
    description: str
    draw: Callable[[float], Figure]


@dataclass(frozen=True)
class Found:
    """An item that a query found; ``image`` is a data URI, empty for none."""

    right: bool
    score: float
    name: str
    text: str
    image: str


@dataclass(frozen=True)
class RunFound:
    """Results of a query in one run, and the expected rank of the first correct item."""

    label: str
    swatch: str
    rank: str
    items: Sequence[Found]


@dataclass(frozen=True)
class Query:
    """A query with its results in each run; ``image`` shows it, or its instance."""

    name: str
    text: str
    image: str
    image_of: str
    runs: Sequence[RunFound]


@dataclass(frozen=True)
class QueryList:
    """Queries under a heading."""

    kind: ClassVar[str] = "queries"
    title: str
    queries: Sequence[Query]


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading and an anchor."""

    anchor: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


Block = Text | Table | Plot | QueryList | Details
