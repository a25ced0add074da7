"""Progress of long work: a bar on a terminal, a few lines in a log."""

from __future__ import annotations

import time
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from mxmclr_plugin.safe_text import TerminalConsole, print_line

_FIRST_LINE, _NEXT_LINES = 10.0, 60.0  # seconds of work after which a log gets a line


class _Progress(Progress):
    """A bar; or, where it is disabled and ``lines`` is set, a line in a log now and then."""

    def __init__(self, *columns: Any, lines: bool, **options: Any) -> None:
        super().__init__(*columns, **options)
        self._lines = lines
        self._due = time.monotonic() + _FIRST_LINE

    def stop(self) -> None:
        if not self.disable:  # before version 14.3 rich then prints an empty line
            super().stop()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        now = time.monotonic()
        if self._lines and now >= self._due:
            self._due = now + _NEXT_LINES
            task = self._tasks[task_id]
            total = "" if task.total is None else f" of {task.total:,.0f}"
            print_line(self.console, f"{task.description}: {task.completed:,.0f}{total}")


def progress_bar(shown: bool = True) -> Progress:
    """A bar with rate and time left on standard error, gone when the work is done.

    Where standard error is no terminal, work of more than 10 seconds prints a line, and one more
    every minute.

    Args:
        shown: False for nothing anywhere.
    """
    console = TerminalConsole(stderr=True)
    return _Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
        lines=shown and not console.is_terminal,
    )


def duration(seconds: float) -> str:
    """A time to read: ``95 s``, ``6 min``, ``3.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
