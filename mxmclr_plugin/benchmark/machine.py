"""The device under test."""

from __future__ import annotations

import os

import torch

from mxmclr_plugin.errors import first_line


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
