"""What a search found, as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from mxmclr_plugin.data.images import data_uri
from mxmclr_plugin.files import short_path
from mxmclr_plugin.inference.search import Found, Hit

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.4 system-ui, sans-serif; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); gap: 1rem;
     list-style: none; padding: 0; }
li { border: 1px solid color-mix(in srgb, currentColor 25%, transparent); border-radius: .5rem;
     padding: .75rem; }
img { display: block; width: 100%; background: #fff; border-radius: .25rem;
      image-rendering: auto; }
.score { float: right; font-variant-numeric: tabular-nums; }
.name { font-weight: 600; overflow-wrap: anywhere; }
"""


def hits_page(found: Found, notes: Sequence[str] = ()) -> str:
    """The page.

    Args:
        found: What was found.
        notes: Sentences that belong to the data.

    Returns:
        HTML with its style and images (PNG) inside.
    """
    hits = "\n".join(_item(rank, hit) for rank, hit in enumerate(found.hits, start=1))
    said = "".join(f"<p>{escape(note)}</p>\n" for note in notes)
    unknown = ""
    if found.unknown:
        unknown = f"<p>not known to the text tower: {escape(', '.join(found.unknown))}</p>\n"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(found.query)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<h1 dir="auto">{escape(found.query)}</h1>
<p>nearest of {found.items} items ({escape(found.among)}) by the cosine to the query</p>
{unknown}<ol>
{hits}
</ol>
{said}</body>
</html>
"""


def _item(rank: int, hit: Hit) -> str:
    image = ""
    if hit.image is not None:
        image = f'<img alt="{escape(hit.name)}" src="{data_uri(hit.image, "png")}">\n'
    caption = f'<p dir="auto">{escape(hit.caption)}</p>\n' if hit.caption else ""
    if hit.file:
        caption += f'<p class="name">{escape(short_path(hit.file))}</p>\n'
    return (
        f'<li>\n{image}<p><span class="score">{hit.score:.3f}</span>{rank}. '
        f'<span class="name" dir="auto">{escape(hit.name)}</span></p>\n{caption}</li>'
    )
