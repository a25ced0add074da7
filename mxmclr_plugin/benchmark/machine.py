"""The device under test."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

from mxmclr_plugin.errors import first_line

_CYCLES = 2_000_000_000
"""Clock cycles of a second; a slower clock only makes a device sleep longer."""


def device_of(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: If it cannot be used here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={name} cannot be used: {first_line(error)}") from None
    return device


def free_bytes(device: torch.device) -> float:
    """Free memory."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return float("inf")


def synchronize(device: torch.device) -> None:
    """Waits until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Moment:
    """A moment: now, or when a CUDA device has done what was launched until now."""

    def __init__(self, device: torch.device) -> None:
        self._time = time.perf_counter()
        self._event = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record(torch.cuda.current_stream(device))

    @property
    def is_over(self) -> bool:
        """Whether the device has come to it."""
        return self._event is None or self._event.query()

    def seconds_until(self, later: Moment) -> float:
        """Seconds until a later moment of the same device, which this waits for."""
        if self._event is None or later._event is None:
            return later._time - self._time
        later._event.synchronize()
        milliseconds: float = self._event.elapsed_time(later._event)
        return milliseconds / 1e3


def device_seconds(
    device: torch.device, head_start: float, work: Callable[[], object]
) -> float | None:
    """Seconds that a CUDA device takes for some work when it need not wait for launches.

    The device sleeps while the host launches all of it.

    Args:
        device: A CUDA device.
        head_start: Seconds that the device sleeps, longer than the host takes.
        work: What is timed.

    Returns:
        None if the device awoke before all was launched: the work waits for the device, or launches
        more than the device's queue holds, about a thousand kernels.
    """
    with torch.cuda.device(device):
        torch.cuda._sleep(int(head_start * _CYCLES))
        start = Moment(device)
        work()
        end = Moment(device)
        awoke = start.is_over
    seconds = start.seconds_until(end)
    return None if awoke else seconds
