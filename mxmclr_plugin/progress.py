"""Progress bar of long work."""

from __future__ import annotations

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from mxmclr_plugin.safe_text import TerminalConsole

__all__ = ["progress_bar"]


def progress_bar(shown: bool = True) -> Progress:
    """A bar with rate and time left on standard error, gone when the work is done.

    Nothing is shown where standard error is no terminal.

    Args:
        shown: False for nothing anywhere.
    """
    console = TerminalConsole(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    )
