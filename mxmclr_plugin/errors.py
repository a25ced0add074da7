"""Errors that a user can correct; the command line shows their message and no traceback."""

from __future__ import annotations

__all__ = ["ConfigError", "DataError", "MissingPackage", "TrainingError"]


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key and what to do."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file and what to do."""


class MissingPackage(ConfigError, ImportError):
    """A package that is not installed; the message names the extra that installs it."""


class TrainingError(ValueError):
    """A training that cannot go on; the message names the step and what to do."""
