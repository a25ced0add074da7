"""Divides the time of training steps into parts, on the host or on a CUDA device."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

_Mark: TypeAlias = "torch.cuda.Event | float"

_MANY = 1000  # marks


class Timeline:
    """Sums of the time between marks, by the part that the later one names.

    A CUDA device works on after the host has made a mark. There a mark is an event in the queue,
    and its time is when the device comes to it: what is waited for while the device is busy takes
    no time.

    Args:
        device: The device that computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._marks: deque[tuple[str | None, _Mark]] = deque()

    def mark(self, part: str | None) -> None:
        """Adds the time since the last mark to a part; None leaves it out."""
        mark: _Mark
        if self._device.type == "cuda":
            mark = torch.cuda.Event(enable_timing=True)
            mark.record(torch.cuda.current_stream(self._device))
        else:
            mark = time.perf_counter()
        self._marks.append((part, mark))
        if len(self._marks) > _MANY:
            self._add(wait=False)

    def seconds(self) -> dict[str, float]:
        """Seconds of each part so far; waits until a CUDA device has come to the last mark."""
        self._add(wait=True)
        return dict(self._seconds)

    def restart(self) -> None:
        """Forgets all marks."""
        self._seconds.clear()
        self._marks.clear()

    def _add(self, wait: bool) -> None:
        while len(self._marks) > 1:
            (_, before), (part, after) = self._marks[0], self._marks[1]
            if isinstance(after, float):
                assert isinstance(before, float)
                seconds = after - before
            else:
                assert not isinstance(before, float)
                if wait:
                    after.synchronize()
                elif not after.query():
                    return
                seconds = before.elapsed_time(after) / 1000  # of milliseconds
            self._marks.popleft()
            if part is not None:
                self._seconds[part] += seconds


def watch_loss(
    loss: nn.Module, mark: Callable[[str], None]
) -> list[torch.utils.hooks.RemovableHandle]:
    """Marks where a loss begins (so ``towers`` end) and where its two passes end (``loss``).

    Args:
        loss: Called with embeddings by modality as the first argument.
        mark: Called with the name of the part that ends.

    Returns:
        Handles that end it.
    """

    def before(_loss: nn.Module, arguments: tuple[Mapping[str, Tensor], Any]) -> None:
        mark("towers")
        ended = False

        def embeddings_have_gradients(_gradient: Tensor) -> None:
            # The backward pass of the towers begins where the first embeddings have a gradient.
            nonlocal ended
            if not ended:
                mark("loss")
            ended = True

        for z in arguments[0].values():
            if z.requires_grad:
                z.register_hook(embeddings_have_gradients)

    def after(*_: Any) -> None:
        mark("loss")

    return [loss.register_forward_pre_hook(before), loss.register_forward_hook(after)]
