"""YAML files that may be somebody else's: plain values only, of a bounded size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mxmclr_plugin.errors import ConfigError

_MOST_BYTES = 2**20
_MOST_NODES = 50_000
"""Values of a file with its aliases written out."""


def read_yaml(file: Path) -> Any:
    """Read plain values; builds no object, and expands no more than a configuration can need.

    Raises:
        OSError: If it cannot be opened.
        ConfigError: If it is no YAML, or too large.
    """
    if file.stat().st_size > _MOST_BYTES:
        raise ConfigError(f"{file} is larger than {_MOST_BYTES} bytes, no configuration is")
    try:
        with file.open(encoding="utf-8") as text:
            root = yaml.compose(text, yaml.SafeLoader)
        if root is not None and _size(root, {}) > _MOST_NODES:
            raise ConfigError(f"{file} holds more than {_MOST_NODES} values, no configuration does")
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except ConfigError:
        raise
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read: {' '.join(str(error).split())}") from error


def _size(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Number of values of a node with its aliases written out; infinite ones count as too many."""
    if node not in known:
        known[node] = _MOST_NODES + 1  # while it is counted: an alias of itself
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        known[node] = 1 + sum(_size(child, known) for child in children)
    return known[node]
