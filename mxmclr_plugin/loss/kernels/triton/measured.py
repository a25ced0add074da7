"""Kinds of devices on which the Triton kernels were timed, and their fastest cuts there.

``impl="auto"`` takes the kernels only where an entry says that they are faster. The entries are in
``measured.json``. To make one, run on the device:

    python -m mxmclr_plugin.benchmark kernels write=true
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from mxmclr_plugin.loss.kernels.triton.cuts import Cut, Cuts

FILE = Path(__file__).with_name("measured.json")


class Measured(NamedTuple):
    """What was measured for a dtype.

    Attributes:
        speedup: Time of ``"streaming"`` over that of ``"triton"``, forward and backward.
        cuts: The fastest cut of each kernel.
    """

    speedup: float
    cuts: Cuts


def read_measured(file: Path) -> dict[str, dict[str, Measured]]:
    """The entries of a file, by device and dtype."""
    devices = json.loads(file.read_text(encoding="utf-8"))
    return {
        device: {
            dtype: Measured(
                entry["speedup"], {kernel: Cut(*cut) for kernel, cut in entry["cuts"].items()}
            )
            for dtype, entry in dtypes.items()
        }
        for device, dtypes in devices.items()
    }


MEASURED = read_measured(FILE)
"""By the name that ``torch.cuda.get_device_name()`` returns, and by dtype."""
