"""Pen strokes in Omniglot's text form, and their sampling to a fixed number of points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mxmclr_plugin.data.file_store import UnreadableFile

CANVAS = 105
"""Edge of Omniglot's canvas in pixels: x goes from 0 to it, y from 0 to minus it."""

MAX_BYTES = 2**24
"""Size of the largest file that is read; Omniglot's have some kilobytes."""


def read_strokes(path: Path, points: int) -> Tensor:
    """A drawing's strokes, from lines ``x,y,t`` between ``START`` and ``BREAK``.

    Args:
        path: The file.
        points: Points that the drawing is sampled at.

    Returns:
        What :func:`sample_strokes` makes of it. Shape: (points, 4).

    Raises:
        UnreadableFile: If it is no such file, or holds no point or one that is not finite.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnreadableFile(path, f"has more than {MAX_BYTES} bytes")
        lines = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(path, f"cannot be read as text: {error}") from error
    rows, stroke = [], 0
    for number, line in enumerate(lines, start=1):
        if line == "START":
            continue
        if line == "BREAK":
            stroke += 1
            continue
        try:
            x, y, t = map(float, line.split(","))
        except ValueError:
            raise UnreadableFile(
                path, f"line {number} is {line!r:.40}, not x,y,t, START or BREAK"
            ) from None
        rows.append((x, y, t, stroke))
    try:
        return sample_strokes(np.array(rows).reshape(-1, 4), points)
    except ValueError as error:
        raise UnreadableFile(path, str(error)) from error


def sample_strokes(drawing: npt.NDArray[np.floating], points: int) -> Tensor:
    """Points at equal distances along the ink of a drawing.

    Args:
        drawing: Columns x from 0 to 105, y from 0 to -105, time in any unit, and number of the
            stroke, in the order drawn. Shape: (n, 4).
        points: How many to take.

    Returns:
        x and y from -1 to 1 with y downwards, time from 0 to 1, and 1 where a stroke begins, else
        0. Shape: (points, 4), float32.

    Raises:
        ValueError: If there is no point or one is not finite.
    """
    if len(drawing) == 0:
        raise ValueError("holds no point")
    if not np.isfinite(drawing).all():
        raise ValueError("holds NaN or infinity")
    x, y, t, stroke = np.asarray(drawing, dtype=np.float64).T
    with np.errstate(over="ignore", invalid="ignore"):
        ink = np.where(np.diff(stroke) == 0, np.hypot(np.diff(x), np.diff(y)), 0)  # not in the air
        travelled = np.concatenate([[0.0], np.cumsum(ink)])
    if not np.isfinite(travelled[-1]):
        raise ValueError("holds numbers too large to measure")
    # From the middle of the first of so many equal parts to that of the last: no point lies right
    # where one stroke ends and the next begins.
    wanted = (np.arange(points) + 0.5) * (travelled[-1] / points)
    # Of the segments between points k and k + 1 the one with ink at the place wanted.
    k = np.clip(np.searchsorted(travelled, wanted, side="right") - 1, 0, max(len(x) - 2, 0))
    after = np.minimum(k + 1, len(x) - 1)
    length = travelled[after] - travelled[k]
    share = np.divide(wanted - travelled[k], length, out=np.zeros(points), where=length > 0)
    sampled = [values[k] + share * (values[after] - values[k]) for values in (x, y, t)]
    begins = np.diff(stroke[k], prepend=-1) != 0
    half = CANVAS / 2
    time = (sampled[2] - t.min()) / max(np.ptp(t), np.finfo(np.float64).tiny)
    columns = [sampled[0] / half - 1, -sampled[1] / half - 1, time, begins]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))
