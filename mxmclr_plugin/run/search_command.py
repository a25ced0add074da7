"""``search`` of the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mxmclr_plugin.arguments import WORD
from mxmclr_plugin.bounds import Count
from mxmclr_plugin.files import write_atomically
from mxmclr_plugin.run.command import Context, loaded_run, new_path
from mxmclr_plugin.safe_text import print_line


@dataclass
class SearchArguments:
    """Arguments of ``search``.

    Attributes:
        query: A text, or the path of an image, grid or other file where the run has a tower for it.
        ckpt: Folder of a run, or a checkpoint in it.
        k: Number of results.
        split: Split whose items are searched, or all.
        modality: Modality that is searched, or several; by default the gallery of the first
            direction with such queries.
        by: Modality of the query; null takes the first one of its kind that has a tower.
        html: New HTML file for the results, with their images.
        trust: Whether the run's configuration may name code that is not registered.
    """

    query: str = field(metadata=WORD)
    ckpt: Path
    k: Count = 5
    split: str = "all"
    modality: list[str] = field(default_factory=list)
    by: str | None = None
    html: Path | None = None
    trust: bool = False


def search_command(arguments: SearchArguments, context: Context) -> int:
    """Prints the instances that are nearest to a query; returns 0.

    Raises:
        ConfigError: If the query cannot be encoded.
    """
    from mxmclr_plugin.inference.search import search
    from mxmclr_plugin.run.hits_page import hits_page
    from mxmclr_plugin.run.hits_terminal import hits_table

    console, page = context.console, arguments.html and new_path("html", arguments.html)
    run = loaded_run(arguments.ckpt, arguments.trust, context)
    found = search(
        run,
        arguments.query,
        arguments.k,
        arguments.split,
        arguments.modality or None,
        arguments.by,
    )
    console.print(hits_table(found, console))
    if found.unknown:
        print_line(console, f"not known to the text tower: {', '.join(found.unknown)}")
    for note in run.data.notes:
        print_line(console, note)
    if page is not None:
        write_atomically(page, hits_page(found, run.data.notes))
        print_line(console, f"written to {page}")
    return 0
