"""Kinds of devices on which the Triton kernels were timed, and their fastest cuts there.

``impl="auto"`` takes the kernels only where an entry says that they are faster. To make one, run on
the device:

    python -m mxmclr_plugin.benchmark kernels
"""

from __future__ import annotations

from typing import NamedTuple

from mxmclr_plugin.loss.kernels.triton.cuts import Cuts


class Measured(NamedTuple):
    """What was measured for a dtype.

    Attributes:
        speedup: Time of ``"streaming"`` over that of ``"triton"``, forward and backward.
        cuts: The fastest cut of each kernel.
    """

    speedup: float
    cuts: Cuts


MEASURED: dict[str, dict[str, Measured]] = {}
"""By the name that ``torch.cuda.get_device_name()`` returns, and by dtype."""
