"""``search`` of the command line."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from mxmclr_plugin.inference.search import search
from mxmclr_plugin.run.arguments import new_path, run_arguments
from mxmclr_plugin.run.hits_page import hits_page
from mxmclr_plugin.run.hits_terminal import hits_table

__all__ = ["search_command"]


def search_command(arguments: Sequence[str], console: Console) -> int:
    """Runs ``search "WORDS" ckpt=RUN [k=5] [split=test] [modality=...] [by=...] [html=FILE]``.

    Args:
        arguments: What stands behind ``search``.
        console: Where to write.

    Returns:
        The exit status, 0.

    Raises:
        ConfigError: If an argument is unknown or missing, or the query cannot be encoded.
    """
    defaults = {"k": "5", "split": "test", "modality": "", "by": "", "html": ""}
    given = run_arguments("search", arguments, defaults, words=1)
    k = given.count("k")
    page = new_path("html", given.own["html"]) if given.own["html"] else None
    trained = given.load(console)
    found = search(
        trained,
        given.words[0],
        k,
        given.own["split"],
        given.own["modality"].split(",") if given.own["modality"] else None,
        given.own["by"] or None,
    )
    console.print(hits_table(found, console))
    if found.unknown:
        console.print(
            f"not known to the text tower: {escape(', '.join(found.unknown))}", highlight=False
        )
    for note in trained.data.notes:
        console.print(escape(note), highlight=False)
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(hits_page(found, trained.data.notes), encoding="utf-8")
        console.print(f"written to {escape(str(page))}", highlight=False, soft_wrap=True)
    return 0
