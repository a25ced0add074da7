"""``python -m mxmclr_plugin.run TASK [key=value ...]``, the same as ``mxmclr``."""

from __future__ import annotations

import os
import sys
import threading
import time

from mxmclr_plugin.run.command_line import main


def _end_with(parent: int) -> None:
    """End this process once its launcher is gone, however that ended."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


if launcher := os.environ.pop("MXMCLR_PARENT", None):
    threading.Thread(target=_end_with, args=(int(launcher),), daemon=True).start()
sys.exit(main())
