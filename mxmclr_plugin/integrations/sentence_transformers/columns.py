"""Which column of a data set holds anchors, positives or hard negatives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

Role = Literal["anchor", "positive", "negative"]

_ROLES: dict[str, Role] = {
    "anchor": "anchor",
    "positive": "positive",
    "negative": "negative",
    "hard_negative": "negative",
    "contradiction": "negative",  # of the data sets AllNLI, SNLI and so on
}

_ANCHOR: tuple[Role] = ("anchor",)
_POSITIVE: tuple[Role] = ("positive",)

_NOT_OBSERVED = {"label", "labels", "score", "scores", "dataset_name"}

_HOW = (
    "name the columns anchor, positive, positive_2, negative, negative_2; or set anchor_columns to "
    "the number of columns of the first modality, whose positives are then all others that are not "
    "named negative"
)


def observation_columns(names: Iterable[str]) -> tuple[str, ...]:
    """The names without those of label columns."""
    return tuple(name for name in names if name not in _NOT_OBSERVED)


def column_roles(
    count: int, named: Iterable[Sequence[str]], anchor_columns: int | None
) -> tuple[Role, ...]:
    """Role of each column of a batch.

    Args:
        count: Number of columns.
        named: Names of the columns of each data set that the batch may come from; none if they are
            unknown.
        anchor_columns: Number of leading columns that hold anchors; None if names tell.

    Raises:
        ValueError: If the roles are not clear.
    """
    if anchor_columns is not None and count < anchor_columns:
        raise ValueError(
            f"anchor_columns is {anchor_columns}, but the data set has only {count} "
            f"column{'' if count == 1 else 's'} of observations"
        )
    named = [names for names in named if len(names) == count]
    found = {_roles(names, anchor_columns) for names in named}
    if len(found) > 1:
        raise ValueError(
            "columns of several data sets have different roles: "
            f"{'; '.join(', '.join(names) for names in named)}; give the trainer a dict of losses, "
            "each with columns=..., or name the columns alike"
        )
    if found:
        return found.pop()
    if anchor_columns is None and count > 2:
        raise ValueError(
            f"the names of the {count} columns are not known here, so that positives and hard "
            "negatives cannot be told apart: give the loss columns=dataset.column_names, or set "
            "anchor_columns if there are no negatives"
        )
    anchors = anchor_columns or 1
    return (*_ANCHOR * anchors, *_POSITIVE * (count - anchors))


def _roles(names: Sequence[str], anchor_columns: int | None) -> tuple[Role, ...]:
    roles = [_ROLES.get(re.sub(r"[_-]?\d+$", "", name.lower())) for name in names]
    if anchor_columns is not None:
        if not all(role in (None, "anchor") for role in roles[:anchor_columns]):
            raise ValueError(
                f"anchor_columns is {anchor_columns}, but not all of the first columns can be "
                f"anchors: {', '.join(names)}"
            )
        others: list[Role] = [
            "negative" if role == "negative" else "positive" for role in roles[anchor_columns:]
        ]
        return (*_ANCHOR * anchor_columns, *others)
    # An anchor and its positive may have any name, such as question and answer.
    roles[0] = roles[0] or "anchor"
    if len(roles) > 1 and roles[1] is None and "positive" not in roles:
        roles[1] = "positive"
    clear = tuple(role for role in roles if role is not None)
    if len(clear) < len(roles) or "anchor" not in clear:
        raise ValueError(f"the columns {', '.join(names)} cannot be told apart: {_HOW}")
    return clear
