import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image
from rich.console import Console

from mxmclr_plugin.inference.search import Found, Hit
from mxmclr_plugin.run.command_line import main
from mxmclr_plugin.run.hits_page import hits_page
from mxmclr_plugin.run.hits_terminal import half_blocks, hits_table


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "small"
    data = ["data.classes=8", "data.captions=3", "data.samples=2", "data.resolution=24"]
    few = ["batch.instances=4", "trainer.max_steps=1", "towers.voxel.widths=[4]"]
    assert main(["text2shape", *data, *few, f"out={out}"]) == 0
    return out


def run(capsys, *arguments):
    status = main([*map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


def noise(width, height):
    return Image.effect_noise((width, height), 80).convert("RGB")


def found(**changes):
    hits = (
        Hit("a <b>", 3, 0.75, "red & [bold]tall[/]", noise(8, 8)),
        Hit("no image", 4, -0.5, None, None),
    )
    given = {"query": "red <script>", "by": "text", "among": "voxel", "items": 9, "unknown": ()}
    return Found(**{**given, "hits": hits, **changes})


def test_the_command(small_run, tmp_path, capsys):
    page = tmp_path / "pages" / "hits.html"
    asked = ["search", "a red cone", f"ckpt={small_run}", "k=50", f"html={page}"]
    status, out, _ = run(capsys, *asked)
    assert status == 0
    assert "'a red cone' among 16 items (voxel)" in out
    assert re.search(r"^weights: best.ckpt of step 1 \(val r@1 \d+\.\d\)$", out, re.MULTILINE)
    assert "▀" not in out  # no terminal, no images
    assert page.read_text().count("<li>") == 8  # one for each instance
    status, _, err = run(capsys, *asked)
    assert status == 2
    assert "is there already" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ckpt={run}"], "search needs QUERY: A text"),
        (
            ["a", "red", "cone", "ckpt={run}"],
            "search takes QUERY and key=value alone, got 'red' 'cone'",
        ),
        (["a red cone"], "needs ckpt="),
        (["a red cone", "ckpt={run}", "k=0"], "k must be 1 or more, got 0"),
        (["a red cone", "ckpt={run}", "k=many"], "k must be a whole number, got 'many'"),
        (["a red cone", "ckpt={run}", "modalty=text"], "did you mean 'modality'"),
        (["a red cone", "ckpt={run}", "modality=image"], "no tower of 'image'"),
    ],
)
def test_what_cannot_be_done(small_run, capsys, arguments, words):
    status, _, err = run(capsys, "search", *(part.format(run=small_run) for part in arguments))
    assert status == 2
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_query_with_an_equals_sign_is_a_query(small_run, capsys):
    status, out, _ = run(capsys, "search", "colour = red", f"ckpt={small_run}")
    assert status == 0
    assert "'colour = red' among" in out
    status, out, _ = run(capsys, "search", f"ckpt={small_run}", "k=1", "--", "k=5 --red cone")
    assert status == 0
    assert "'k=5 --red cone' among" in out
    status, _, err = run(capsys, "search", f"ckpt={small_run}", "--", "--red")
    assert (status, err) == (0, "")


def test_half_blocks_show_two_pixels_each():
    image = noise(6, 8)
    lines = half_blocks(image, 6).split("\n")
    assert [len(line) for line in lines] == [6] * 4
    for row, line in enumerate(lines):
        for column, span in enumerate(line.spans):
            assert (span.start, span.end) == (column, column + 1)
            colours = (span.style.color, span.style.bgcolor)
            shown = [tuple(colour.triplet) for colour in colours]
            assert shown == [image.getpixel((column, 2 * row + half)) for half in (0, 1)]


def test_images_on_a_terminal_with_colours():
    for options, shown in (
        ({"force_terminal": True, "color_system": "truecolor"}, True),
        ({"force_terminal": True, "no_color": True, "color_system": None}, False),
        ({"force_terminal": False}, False),
    ):
        console = Console(file=io.StringIO(), width=100, **options)
        console.print(hits_table(found(), console))
        text = console.file.getvalue()
        assert ("▀" in text) == shown
        assert "red & [bold]tall[/]" in text


def test_a_path_is_relative_and_not_broken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"photos/red_cone/{number}.jpg" for number in range(3)]
    words = "a red cone of metal that stands on a wooden table beside a window"
    hits = tuple(Hit("a_red_triangle", 0, 0.5, words, None, str(tmp_path / name)) for name in names)
    console = Console(file=io.StringIO(), width=80)
    console.print(hits_table(found(hits=hits), console))
    lines = console.file.getvalue().splitlines()
    assert all(any(line.split()[-1:] == [name] for line in lines) for name in names)
    assert any("a_red_triangle" in line for line in lines)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="truecolor")
    shown = tuple(dataclasses.replace(hit, image=noise(8, 8)) for hit in hits)
    console.print(hits_table(found(hits=shown), console))
    lines = re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue()).splitlines()
    ends = [line.split()[-1] for line in lines if line.split()]
    assert ends.count("photos/red_cone/") == 3  # broken behind a slash
    assert str(tmp_path) not in hits_page(found(hits=hits))


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_the_page():
    what = found(unknown=("flurb",))
    page = Page()
    page.feed(hits_page(what, ["regenerated & more"]))
    assert "script" not in page.tags
    for words in ("red <script>", "a <b>", "red & [bold]tall[/]", "-0.500", "flurb"):
        assert words in page.text
    assert "regenerated & more" in page.text
    assert all(address.startswith("data:") for address in page.addresses)
    (png,) = [address for address in page.addresses if address.startswith("data:image/png")]
    image = Image.open(io.BytesIO(base64.b64decode(png.partition("base64,")[2])))
    assert image.tobytes() == what.hits[0].image.tobytes()
