"""The floors of docs/architecture.md, held by the contracts in pyproject.toml."""

import contextlib
import io
from pathlib import Path

import pytest

cli = pytest.importorskip("importlinter.cli")
CONTRACTS = Path(__file__).parents[1] / "pyproject.toml"


def test_imports_go_down_only():
    report = io.StringIO()
    with contextlib.redirect_stdout(report):
        status = cli.lint_imports(str(CONTRACTS), no_cache=True)
    assert status == 0, report.getvalue()
