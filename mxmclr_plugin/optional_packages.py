"""Packages of the extras, imported where they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from mxmclr_plugin.errors import MissingPackage


def optional(module: str, purpose: str, extra: str) -> Any:
    """A module of a package that an extra installs.

    Args:
        module: Its name.
        purpose: What it is for: ``"Excel files are read by"``.
        extra: The extra.

    Raises:
        MissingPackage: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackage(
            f"{purpose} {module.partition('.')[0]}, which is not installed: pip install "
            f"'mxmclr-plugin[{extra}]'"
        ) from error
