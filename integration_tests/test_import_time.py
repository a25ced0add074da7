"""Modules that an import or a command pulls in; times are measured by ``benchmark startup``."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import mxmclr_plugin

SLOW = {
    *("lightly.loss", "lightly.models", "lightly.transforms", "pytorch_lightning"),
    *("lightning_fabric", "sentence_transformers", "transformers", "pytorch_metric_learning"),
    *("torchvision", "scipy", "matplotlib", "sklearn", "pandas", "faiss", "timm", "datasets"),
}
"""Modules that take half a second or more."""


def imported(code):
    """Modules of :data:`SLOW`, and torch, that are imported after a program has run."""
    program = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return (SLOW | {"torch"}) & set(json.loads(done.stdout.splitlines()[-1]))


def test_the_package_imports_nothing():
    assert imported("import mxmclr_plugin") == set()


def test_public_names_import_torch_alone():
    names = ", ".join(mxmclr_plugin.__all__)
    assert imported(f"from mxmclr_plugin import {names}") == {"torch"}


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 2),
        (["--help"], 0),
        *((["list", what], 0) for what in ("tasks", "losses", "towers", "data", "studies")),
        *(([name, "--help"], 0) for name in ("text2shape", "manifest", "compare", "ablate")),
        *(([name, "--help"], 0) for name in ("search", "evaluate", "export", "report")),
        (["text2shpe"], 2),
        (["text2shape", "loss.temperture=1"], 2),
        (["text2shape", "trainer.max_step=1"], 2),
        (["search", "red", "ckpt=x", "modalty=text"], 2),
    ],
)
def test_help_lists_and_mistakes_do_without_torch(arguments, status):
    code = (
        "from mxmclr_plugin.run.command_line import main\n"
        f"status = main({arguments!r})\n"
        f"assert status == {status}, status"
    )
    assert imported(code) == set()


def test_a_folder_with_a_run_is_refused_without_torch(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    code = (
        "from mxmclr_plugin.run.command_line import main\n"
        f"status = main(['text2shape', {f'out={tmp_path}'!r}])\n"
        "assert status == 2, status"
    )
    assert imported(code) == set()


def test_table_and_type_checkers_have_the_same_names():
    tree = ast.parse(Path(mxmclr_plugin.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    declared = {
        alias.asname: node.module.removeprefix("mxmclr_plugin.")
        for node in block.body
        for alias in node.names
    }
    assert declared == mxmclr_plugin._MODULES
    for name in mxmclr_plugin.__all__:
        assert getattr(mxmclr_plugin, name).__name__ == name
        assert name in dir(mxmclr_plugin)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mxmclr_plugin.nothing  # noqa: B018
