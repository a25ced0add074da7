"""Where the host waits for a CUDA device."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def host_waits(device: torch.device) -> Iterator[list[str]]:
    """Collects the calls in which the host waits for the device, as torch reports them.

    Args:
        device: The device; nothing is found unless it is a CUDA device.

    Yields:
        The stack of each such call, as text. Those of a backward pass are known at its end.
    """
    found: list[str] = []
    if device.type != "cuda":
        yield found
        return

    def keep(message: Warning | str, *_: Any, **__: Any) -> None:
        if "called a synchronizing CUDA operation" in str(message):
            found.append("".join(traceback.format_stack()[-12:-1]))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = keep
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
