"""How long a GPU does nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch.profiler import ProfilerActivity, profile


class IdleMeter:
    """Measures the share of the time in which a CUDA device neither computes nor copies.

    torch's profiler records when each kernel runs. What runs at the same time counts once.

    Args:
        device: The device; of another one nothing is known.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._profile: profile | None = None
        self._since = 0.0

    def start(self) -> None:
        """Begins; waits for the device."""
        if self._device.type == "cuda":
            self._profile = profile(activities=[ProfilerActivity.CUDA])
            self._profile.start()
            torch.cuda.synchronize(self._device)
            self._since = time.perf_counter()

    def stop(self) -> float | None:
        """The share since ``start``, 0 to 1; waits for the device. None if nothing was recorded."""
        if self._profile is None:
            return None
        torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - self._since
        self._profile.stop()
        busy = covered(
            (event.time_range.start, event.time_range.end)
            for event in self._profile.events() or ()
            if event.device_type.name == "CUDA"
        )
        self._profile = None
        return max(0.0, 1 - busy / 1e6 / seconds) if busy else None


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals, each given by its start and its end."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
