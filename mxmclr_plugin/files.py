"""Where generated data and computed features are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """``$MXMCLR_CACHE`` if it is set, else ``~/.cache/mxmclr_plugin``."""
    given = os.environ.get("MXMCLR_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "mxmclr_plugin"
