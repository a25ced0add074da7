"""``export`` of the command line."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.inference.export import export_run
from mxmclr_plugin.run.arguments import new_path, run_arguments

__all__ = ["export_command"]


def export_command(arguments: Sequence[str], console: Console) -> int:
    """Runs ``export ckpt=RUN out=FOLDER [split=test] [format=safetensors] [towers=all]``.

    Args:
        arguments: What stands behind ``export``.
        console: Where to write.

    Returns:
        The exit status, 0.

    Raises:
        ConfigError: If an argument is unknown or missing, or a tower cannot be written.
    """
    defaults = {"out": "", "split": "test", "format": "safetensors", "towers": "all"}
    given = run_arguments("export", arguments, defaults)
    if not given.own["out"]:
        raise ConfigError("export needs out=FOLDER")
    out = new_path("out", given.own["out"])
    named = given.own["towers"]
    towers = {"all": None, "none": []}.get(named, named.split(","))
    export_run(given.load(console), out, given.own["split"], given.own["format"], towers, console)
    return 0
