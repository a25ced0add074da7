"""Emoji with their names and keywords, as a manifest.

    apt-get install fonts-noto-color-emoji fonts-symbola unicode-cldr-core
    python emoji_manifest.py emoji

An instance is an emoji. Its images are its glyphs in two fonts, one in colour and one in black. Its
texts are its English name and its keywords of Unicode CLDR, all and in halves. Skin tones, flags
and characters that only one font has are left out. The split is random and fixed: 70, 10, 20
percent.
"""

import argparse
import json
import random
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

COLOUR = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
BLACK = Path("/usr/share/fonts/truetype/ancient-scripts/Symbola_hint.ttf")
ANNOTATIONS = Path("/usr/share/unicode/cldr/common/annotations/en.xml")
SIZE = 64

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("out", type=Path, help="new folder")
parser.add_argument("--colour", type=Path, default=COLOUR)
parser.add_argument("--black", type=Path, default=BLACK)
parser.add_argument("--annotations", type=Path, default=ANNOTATIONS)
arguments = parser.parse_args()


def draw(character: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """The glyph on white, cut to what it shows; None if the font does not have it."""
    canvas = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(canvas).text((30, 30), character, "black", font, embedded_color=True)
    shown = Image.eval(canvas, lambda value: 255 - value).getbbox()
    if shown is None or canvas.tobytes() in missing:
        return None
    glyph = canvas.crop(shown)
    side = max(glyph.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return square.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


names: dict[str, str] = {}
keywords: dict[str, list[str]] = {}
for annotation in ElementTree.parse(arguments.annotations).iter("annotation"):
    character, text = annotation.get("cp", ""), annotation.text or ""
    if annotation.get("type") == "tts":
        names[character] = text
    else:
        keywords[character] = [word.strip() for word in text.split("|")]

fonts = [
    ImageFont.truetype(str(arguments.colour), 109),
    ImageFont.truetype(str(arguments.black), 109),
]
missing: set[bytes] = set()
for font in fonts:  # how a font draws a character that it does not have
    canvas = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(canvas).text((30, 30), "\U000fffff", "black", font, embedded_color=True)
    missing.add(canvas.tobytes())

(arguments.out / "images").mkdir(parents=True)
chance = random.Random(0)
lines = []
for character, name in sorted(names.items()):
    words = [word for word in keywords.get(character, []) if word != name]
    if len(character) > 1 or len(words) < 2 or ord(character) < 0x2190:
        continue
    glyphs = [draw(character, font) for font in fonts]
    if None in glyphs:
        continue
    code = f"{ord(character):x}"
    files = []
    for glyph, of in zip(glyphs, ("colour", "black"), strict=True):
        files.append(f"images/{code}-{of}.png")
        glyph.save(arguments.out / files[-1])
    half = (len(words) + 1) // 2
    texts = [name, ", ".join(words), ", ".join(words[:half]), ", ".join(words[half:])]
    split = chance.choices(("train", "val", "test"), (7, 1, 2))[0]
    lines.append({"id": name, "split": split, "image": files, "text": list(dict.fromkeys(texts))})
text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
(arguments.out / "emoji.jsonl").write_text(text + "\n", encoding="utf-8")
print(f"{len(lines)} emoji in {arguments.out / 'emoji.jsonl'}")
