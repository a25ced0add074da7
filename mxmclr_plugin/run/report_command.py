"""``report`` of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.registry import did_you_mean

__all__ = ["report_command"]

_KEYS = {"out": "", "plots": "", "losses": "", "protocol": "", "seed": "0"}


def report_command(arguments: Sequence[str], console: Console) -> int:
    """Runs ``report FOLDER [out=FILE.html] [plots=FOLDER] [losses=A,B] [protocol=P] [seed=0]``.

    Args:
        arguments: What stands behind ``report``.
        console: Where to write.

    Returns:
        The exit status, 0.

    Raises:
        ConfigError: If an argument is unknown or missing, a package is missing, or the folder
            cannot be reported on.
    """
    folder, given = _read(arguments)
    for package in ("matplotlib", "sklearn"):
        if find_spec(package) is None:
            raise ConfigError(
                f"report needs {package}, which is not installed: pip install "
                "'mxmclr-plugin[report]'"
            )
    # Only here: what it needs is an extra.
    from mxmclr_plugin.files import write_atomically
    from mxmclr_plugin.report.build import build_report
    from mxmclr_plugin.report.page import GENERATOR

    out = Path(given["out"]).expanduser() if given["out"] else folder / "report.html"
    if out.is_dir() or (out.exists() and GENERATOR not in _head(out)):
        raise ConfigError(f"out: {out} is there already and no report; give another file")
    losses = [loss for loss in given["losses"].split(",") if loss]
    report = build_report(folder, losses, given["protocol"] or None, int(given["seed"]), console)
    write_atomically(out, report.html())
    console.print(f"written to {escape(str(out))}", highlight=False, soft_wrap=True)
    if given["plots"]:
        plots = Path(given["plots"]).expanduser()
        files = report.save_plots(plots)
        console.print(
            f"{len(files)} files of plots in {escape(str(plots))}", highlight=False, soft_wrap=True
        )
    return 0


def _read(arguments: Sequence[str]) -> tuple[Path, dict[str, str]]:
    given = dict(_KEYS)
    folders = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key.isidentifier():
            if key not in given:
                raise ConfigError(
                    f"report has no key {key!r}: {did_you_mean(key, given)}its keys are "
                    f"{', '.join(given)}"
                )
            given[key] = value
        else:
            folders.append(argument)
    if len(folders) != 1:
        raise ConfigError(
            "report needs the folder of a comparison, an ablation or a run: "
            "python -m mxmclr_plugin.run report runs/compare/text2shape"
        )
    if not given["seed"].isdecimal():
        raise ConfigError(f"seed must be a number, 0 or more, got {given['seed']!r}")
    if given["losses"] and len(set(given["losses"].split(","))) not in (1, 2):
        raise ConfigError(f"losses shows one or two, side by side, got {given['losses']!r}")
    folder = Path(folders[0]).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}")
    return folder, given


def _head(file: Path) -> str:
    with file.open(encoding="utf-8", errors="replace") as text:
        return text.read(2000)
