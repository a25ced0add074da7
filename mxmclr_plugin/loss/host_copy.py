"""Values of a device that the host reads later, so that it does not wait for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def reads_later(device: torch.device) -> bool:
    """Whether the host works ahead of a device, so that to read from it is to wait."""
    return device.type == "cuda"


class HostCopy:
    """A copy of a tensor on the host, on its way from the device when this is made.

    Args:
        tensor: Of any shape, on any device.
    """

    def __init__(self, tensor: Tensor) -> None:
        # Into page-locked memory, where it is not waited for.
        self._values = tensor.detach().to("cpu", non_blocking=tensor.is_cuda)
        self._copied: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> Tensor:
        """The values, once they have come."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values
