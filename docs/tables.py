"""Hook of mkdocs: tables of what is registered, and Sphinx's roles and formulas of docstrings.

``<!-- table: NAME -->`` in a page is filled from the package. Formulas become MathML, which
browsers show without a script.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable
from typing import Any

from latex2mathml.converter import convert

from mxmclr_plugin.arguments import written
from mxmclr_plugin.comparison.study import studies
from mxmclr_plugin.experiment.config.compose import load_config, tasks
from mxmclr_plugin.experiment.config.describe_config import describe
from mxmclr_plugin.registry import DATASETS, LOSSES, TOWERS, Option


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    lines = [[*columns], ["---"] * len([*columns]), *([*row] for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
                     for row in lines)  # fmt: skip


def code(value: object) -> str:
    return f"`{value}`"


def options(of: Iterable[Option]) -> str:
    rows = [(code(option.name), code(written(option.default)), option.help) for option in of]
    return table(["option", "default", "meaning"], rows) if rows else "No options."


def losses() -> str:
    sections = []
    for loss in LOSSES:
        facts = [
            f"*{loss.summary}*",
            "",
            f"- Batches: {loss.batches}.",
            f"- Negatives: {'the other' if loss.negatives == 'cross-modal' else 'both'} "
            f"modalit{'y' if loss.negatives == 'cross-modal' else 'ies'}.",
            f"- Code: {loss.source}." if loss.source else "",
            f"- Paper: {loss.paper}." if loss.paper else "",
            f"- Use: `mxmclr TASK loss={loss.name}`, `build_loss({loss.name!r})`.",
            "",
            options(loss.options.values()),
        ]
        sections += [f"## {loss.name}", "", *(fact for fact in facts), ""]
    return "\n".join(sections)


def towers() -> str:
    parts = [
        f"### {t.name}\n\n{t.summary} Kind: `{t.kind}`.\n\n{options(t.backbone.options.values())}"
        for t in TOWERS
    ]
    return "\n\n".join(parts)


def datasets() -> str:
    parts = [f"### {d.name}\n\n{d.summary}\n\n{options(d.options.values())}" for d in DATASETS]
    return "\n\n".join(parts)


def keys() -> str:
    config = load_config("text2shape", [])
    own = ("loss.", "data.", "towers.")
    rows = [
        (code(key.key), code(written(key.default)), key.help + _choices(key.choices))
        for key in describe(config)
        if not key.key.startswith(own)
    ]
    return table(["key", "default of `text2shape`", "meaning"], rows)


def _choices(choices: tuple[Any, ...]) -> str:
    return f" One of {', '.join(code(choice) for choice in choices)}." if choices else ""


TABLES: dict[str, Callable[[], str]] = {
    "losses": losses,
    "towers": towers,
    "datasets": datasets,
    "keys": keys,
    "tasks": lambda: table(["task", "what"], ((code(k), v) for k, v in tasks().items())),
    "studies": lambda: table(["study", "varies"], ((code(k), v) for k, v in studies().items())),
}


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs for every page."""
    return re.sub(r"<!-- table: (\w+) -->", lambda found: TABLES[found[1]](), markdown)


def on_page_content(content: str, **_: object) -> str:
    """Called by mkdocs with the HTML of every page."""
    content = re.sub(r":math:<code>(.*?)</code>", _inline_formula, content, flags=re.DOTALL)
    content = re.sub(r"<p>\.\. math::\s*(.*?)</p>", _formula, content, flags=re.DOTALL)
    # Tables of Sphinx, as they are written.
    content = re.sub(
        r"<p>(=+ +=+\n.*?)</p>", r"<pre><code>\1</code></pre>", content, flags=re.DOTALL
    )
    roles = "attr|class|data|func|meth|mod"
    return re.sub(rf":(?:{roles}):\s?<code>(~?)([\w.]+)</code>", _reference, content)


def _inline_formula(found: re.Match[str]) -> str:
    return convert(html.unescape(found[1]))


def _formula(found: re.Match[str]) -> str:
    return f"<p>{convert(html.unescape(found[1]), display='block')}</p>"


def _reference(found: re.Match[str]) -> str:
    shown = found[2].rpartition(".")[2] if found[1] else found[2]
    return f'<autoref identifier="{found[2]}" optional><code>{shown}</code></autoref>'
