"""Kinds of devices on which the Triton kernels were timed.

``impl="auto"`` takes the kernels only where an entry says that they are faster. To add one, run on
the device, for each dtype:

    python -m mxmclr_plugin.benchmark loss device=cuda n=16384 dtype=bfloat16
"""

from __future__ import annotations

SPEEDUPS: dict[str, dict[str, float]] = {}
"""Time of ``"streaming"`` over that of ``"triton"``, forward and backward, by the name that
``torch.cuda.get_device_name()`` returns and by dtype: ``{"NVIDIA X": {"bfloat16": 2.0}}``."""
