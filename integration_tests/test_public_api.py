"""Public names and their parameters change on purpose only: with this list and the changelog."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest

import mxmclr_plugin

FROZEN = Path(__file__).with_name("public_api.txt")
MODULES = [
    "mxmclr_plugin",
    "mxmclr_plugin.integrations.hugging_face",
    "mxmclr_plugin.integrations.lightly",
    "mxmclr_plugin.integrations.open_clip",
    "mxmclr_plugin.integrations.pytorch_metric_learning",
    "mxmclr_plugin.integrations.sentence_transformers",
]


def signature(name, thing):
    """Names and kinds of parameters; ``=`` behind those that have a default."""
    if not callable(thing):
        return name
    parts, keyword_only = [], False
    for parameter in inspect.signature(thing).parameters.values():
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        if parameter.kind == parameter.KEYWORD_ONLY and not keyword_only:
            parts.append("*")
            keyword_only = True
        keyword_only = keyword_only or stars == "*"
        default = "=" if parameter.default is not parameter.empty else ""
        parts.append(f"{stars}{parameter.name}{default}")
    return f"{name}({', '.join(parts)})"


def public(module):
    """Lines of a module: its public functions and classes, with methods of its own."""
    for name in sorted(module.__all__):
        thing = getattr(module, name)
        full = f"{module.__name__}.{name}"
        yield signature(full, thing)
        if inspect.isclass(thing):
            for method, function in sorted(vars(thing).items()):
                if not method.startswith("_") and inspect.isfunction(function):
                    yield signature(f"{full}.{method}", function)


def all_lines():
    return [line for name in MODULES for line in public(import_module(name))]


def test_the_public_api_is_as_it_was():
    for name in ("open_clip_train", "open_clip"):
        pytest.importorskip(name)
    frozen = FROZEN.read_text(encoding="utf-8").splitlines()
    hint = "if you mean it: python integration_tests/test_public_api.py, and a line in CHANGELOG.md"
    assert all_lines() == frozen, hint


def test_every_public_name_has_a_docstring():
    for name in mxmclr_plugin.__all__:
        assert (getattr(mxmclr_plugin, name).__doc__ or "").strip(), name


def test_versions_are_the_same():
    root = Path(__file__).parents[1]
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {mxmclr_plugin.__version__}\n" in citation
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {mxmclr_plugin.__version__}" in changelog


if __name__ == "__main__":  # python integration_tests/test_public_api.py
    FROZEN.write_text("\n".join(all_lines()) + "\n", encoding="utf-8")
