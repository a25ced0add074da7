"""Texts of unknown origin reach a terminal, a page, a plot or a table as text alone."""

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rich.table import Table

from mxmclr_plugin.inference.search import Found, Hit
from mxmclr_plugin.report.blocks import Plot, Section, TableCell, Text
from mxmclr_plugin.report.blocks import Table as PageTable
from mxmclr_plugin.report.page import Page, page_html
from mxmclr_plugin.report.svg import save_figure
from mxmclr_plugin.run.hits_page import hits_page
from mxmclr_plugin.run.hits_terminal import hits_table
from mxmclr_plugin.safe_text import TerminalConsole, csv_cell, identifier, visible

HOSTILE = [
    "\x1b[31mred\x1b]0;title\x07",
    "[/]",
    "[red]x[/red]",
    ":smile:",
    '"><script>alert(1)</script>',
    "$\\frac{$",
    "$x^2$",
    "\\g<9>\\1",
    "=1+1",
    "\u202egnp.exe",
    "\x9b31m",
    "a\rb",
    "\udcff",
]


def printed(write):
    file = io.StringIO()
    console = TerminalConsole(
        file=file, force_terminal=True, color_system="truecolor", width=200, legacy_windows=False
    )
    write(console)
    # What styles alone write.
    return re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_gets_no_control_sequence_and_all_of_the_text(text):
    def in_a_table(console):
        table = Table(title=text)
        table.add_column(text)
        table.add_row(text)
        console.print(table)

    hit = Hit(text, 0, 0.5, text, None)
    found = Found(text, "text", text, 1, (), (hit,))
    for write in (
        lambda console: console.print(text),
        in_a_table,
        lambda console: console.print(hits_table(found, console)),
    ):
        output = printed(write)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", output)
        assert visible(text) in output


@given(st.text())
def test_visible_text_has_no_control_character(text):
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", visible(text))
    assert visible("plain, ünï [x] \n") == "plain, ünï [x] \n"


@given(st.text())
def test_a_cell_is_no_formula_and_other_cells_are_kept(text):
    cell = csv_cell(text)
    assert cell[:1] not in set("=+-@\t\r")
    assert cell in (text, f"'{text}")
    assert csv_cell(-1.5) == -1.5
    file = io.StringIO()
    csv.writer(file).writerow([csv_cell("=1+1")])
    assert file.getvalue() == "'=1+1\r\n"


@given(st.text(), st.text())
def test_identifiers_are_plain_and_as_different_as_their_texts(text, other):
    assert re.fullmatch(r"[A-Za-z0-9_.-]*", identifier(text))
    assert not identifier(text).startswith("..")
    assert (identifier(text) == identifier(other)) == (text == other)
    assert identifier("curves-same_batches") == "curves-same_batches"


def drawn(text):
    def draw(width):
        figure = Figure(figsize=(width, 2))
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], label=text)
        axes.set_title(text)
        axes.set_xticks([0, 1], [text, "b"])
        axes.annotate(text, (0, 0))
        axes.legend()
        return figure

    return draw


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("text", HOSTILE[:-1])
def test_a_page_and_its_plots_hold_texts_as_texts(text, tmp_path):
    plot = Plot(text, text, text, text, drawn(text))
    table = PageTable(text, [text], [[TableCell(text)]], text)
    html = page_html(Page(text, text, [Section("a", text, [Text(text), table, plot])]))
    assert "<script>alert" not in html
    # Own scripts alone; no attribute that the text ends.
    assert html.count("<script") == page_html(Page("t", "t", [])).count("<script")
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in ids)
    for path in save_figure(drawn(text)(4), tmp_path, f"../{text}"):
        assert path.parent == tmp_path
        assert path.is_file()
    svg = next(tmp_path.glob("*.svg")).read_text(encoding="utf-8")
    assert "<script" not in svg
    if "$" in text:
        assert svg.count(text) >= 3  # not set as mathematics


@pytest.mark.parametrize("text", HOSTILE)
def test_the_page_of_a_search_holds_texts_as_texts(text):
    html = hits_page(Found(text, text, text, 1, (text,), (Hit(text, 0, 0.5, text, None),)), [text])
    assert "<script" not in html
