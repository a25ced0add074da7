"""Checks of what a multifold loss is given; every message names the argument and the place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "check_options",
    "check_positive",
    "check_shapes",
    "check_share",
    "check_tiles",
    "check_values",
]

_SOFT_LEVELS = ("observation", "instance")
_IMPLEMENTATIONS = ("auto", "dense", "streaming", "triton")


def check_positive(name: str, value: float) -> None:
    """Raises a ValueError that names the option unless its value is a finite number above 0."""
    if not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def check_share(name: str, value: float) -> None:
    """Raises a ValueError that names the option unless its value is a number from 0 to 1."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")


def check_options(
    temperature: float | Tensor,
    soft_temperature: float,
    hard_weight: float,
    soft_level: str,
    impl: str,
) -> None:
    """Checks the options of the multifold hybrid loss; reads no value of a tensor.

    Raises:
        ValueError: If an option is out of range.
    """
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1:
            raise ValueError(
                f"temperature must hold one element, got shape {tuple(temperature.shape)}"
            )
    else:
        check_positive("temperature", temperature)
    check_positive("soft_temperature", soft_temperature)
    check_share("hard_weight", hard_weight)
    for name, value, known in (
        ("soft_level", soft_level, _SOFT_LEVELS),
        ("impl", impl, _IMPLEMENTATIONS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")


def check_tiles(tile: int | None, cache_bytes: int, num_instances: int | None = None) -> None:
    """Checks how a matrix is to be cut.

    Raises:
        ValueError: If a tile would hold nothing, the cache less than nothing, or no instance is
            there.
    """
    for name, value, least in (
        ("tile", tile, 1),
        ("cache_bytes", cache_bytes, 0),
        ("num_instances", num_instances, 1),
    ):
        if value is None and name != "cache_bytes":
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}")


def check_shapes(
    a: Tensor,
    b: Tensor | None,
    ids_a: Tensor,
    ids_b: Tensor | None,
    soft_features_a: Tensor | None = None,
    soft_features_b: Tensor | None = None,
    queue: Tensor | None = None,
    queue_ids: Tensor | None = None,
    *,
    may_be_empty: bool = False,
) -> None:
    """Checks ranks, lengths, dtypes and devices; reads no value of a tensor.

    With ``may_be_empty`` there may be no rows, since other processes may have some.

    Raises:
        ValueError: If one of them does not fit.
    """
    _check_matrix("a", a, may_be_empty)
    for name, embeddings, ids_name, ids, features in (
        ("a", a, "ids_a", ids_a, soft_features_a),
        ("b", b, "ids_b", ids_b, soft_features_b),
        ("queue", queue, "queue_ids", queue_ids, None),
    ):
        if embeddings is None:
            for other, tensor in ((ids_name, ids), (f"soft_features_{name}", features)):
                if tensor is not None:
                    raise ValueError(f"{other} is given but {name} is None")
            continue
        _check_matrix(name, embeddings, may_be_empty)
        if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex():
            kind = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
            raise ValueError(f"{ids_name} must be a tensor of integers, got {kind}")
        if ids.shape != embeddings.shape[:1]:
            raise ValueError(
                f"{ids_name} must hold one id for each of the {len(embeddings)} rows of {name}, "
                f"got shape {tuple(ids.shape)}"
            )
        if features is not None:
            _check_matrix(f"soft_features_{name}", features, may_be_empty)
            if len(features) != len(embeddings):
                raise ValueError(
                    f"soft_features_{name} must have one row for each of the {len(embeddings)} "
                    f"rows of {name}, got shape {tuple(features.shape)}"
                )
        for other, tensor in (
            (ids_name, ids),
            (f"soft_features_{name}", features),
            (name, embeddings),
        ):
            if tensor is not None and tensor.device != a.device:
                raise ValueError(f"{other} is on {tensor.device} but a is on {a.device}")
        if a.shape[1] != embeddings.shape[1]:
            raise ValueError(
                f"a and {name} must have the same number of columns, "
                f"got shapes {tuple(a.shape)} and {tuple(embeddings.shape)}"
            )
    if queue is not None and (soft_features_a is not None or soft_features_b is not None):
        raise ValueError(
            "queue and soft features cannot be used together: the queue has no soft features"
        )


def check_values(
    a: Tensor,
    b: Tensor | None,
    ids_a: Tensor,
    ids_b: Tensor | None,
    soft_features_a: Tensor | None = None,
    soft_features_b: Tensor | None = None,
    queue: Tensor | None = None,
    queue_ids: Tensor | None = None,
    *,
    temperature: float | Tensor = 1.0,
    normalize: bool = True,
    num_instances: int | None = None,
) -> None:
    """Checks the values of tensors, with one wait for the device if all is well.

    Raises:
        ValueError: If a row is NaN, infinite or (where it is to be normalised) zero, if no row
            of ``a`` has a positive in ``b`` or ``queue`` (with ``b=None``: no two rows of ``a``
            and ``queue`` share an id), if a temperature given as a tensor is not positive, or if
            there are more distinct ids than ``num_instances``.
    """
    rows = [
        (name, matrix, zero_is_bad)
        for name, matrix, zero_is_bad in (
            ("a", a, normalize),
            ("b", b, normalize),
            ("soft_features_a", soft_features_a, True),
            ("soft_features_b", soft_features_b, True),
            ("queue", queue, normalize),
        )
        if matrix is not None
    ]
    bad = [_bad_rows(tensor, zero_is_bad) for _, tensor, zero_is_bad in rows]
    has_positive = _has_positive(ids_a, ids_b, queue_ids)
    all_is_well = has_positive & ~torch.stack([is_bad.any() for is_bad in bad]).any()
    if isinstance(temperature, Tensor):
        all_is_well = all_is_well & (temperature > 0).all().to(all_is_well.device)
    instances = None
    if num_instances is not None:
        instances = _count(ids_a, ids_b, queue_ids)
        all_is_well = all_is_well & (instances <= num_instances)
    if not all_is_well:
        if instances is not None and num_instances is not None and instances > num_instances:
            raise ValueError(
                f"num_instances is {num_instances}, but there are {int(instances)} distinct ids; "
                "give as many or more, or None"
            )
        if isinstance(temperature, Tensor):
            check_positive("temperature", temperature.item())
        for (name, tensor, _), is_bad in zip(rows, bad, strict=True):
            if is_bad.any():
                _raise_bad_row(name, tensor, is_bad)
        if b is None:
            raise ValueError(
                f"no row of a (shape {tuple(a.shape)}) has a positive: ids_a holds every id once, "
                "so there is nothing to learn from; give several observations of an instance"
            )
        raise ValueError(
            f"no row of a (shape {tuple(a.shape)}) has a positive in b (shape {tuple(b.shape)}): "
            "ids_a and ids_b share no id, so there is nothing to learn from; draw batches in which "
            "an instance has observations in both modalities"
        )


def _has_positive(ids_a: Tensor, ids_b: Tensor | None, queue_ids: Tensor | None) -> Tensor:
    """Whether any row of A has a positive. Shape: ()."""
    found = [torch.isin(ids_a, ids).any() for ids in (ids_b, queue_ids) if ids is not None]
    if ids_b is None:
        ordered = ids_a.sort().values
        found.append((ordered[1:] == ordered[:-1]).any())
    return torch.stack(found).any()


def _count(*ids: Tensor | None) -> Tensor:
    """Number of distinct ids. Shape: ()."""
    ordered = torch.cat([x for x in ids if x is not None]).sort().values
    return (ordered[1:] != ordered[:-1]).sum() + 1


def _check_matrix(name: str, matrix: Tensor, may_be_empty: bool) -> None:
    if not isinstance(matrix, Tensor) or matrix.ndim != 2:
        got = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
        raise ValueError(f"{name} must be a matrix of shape (rows, columns), got {got}")
    if matrix.shape[1] == 0 or (len(matrix) == 0 and not may_be_empty):
        raise ValueError(f"{name} must have rows and columns, got shape {tuple(matrix.shape)}")
    if not matrix.is_floating_point():
        raise ValueError(f"{name} must be of a floating point dtype, got {matrix.dtype}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _bad_rows(matrix: Tensor, zero_is_bad: bool) -> Tensor:
    """Rows that cannot be used. Shape: (rows,)."""
    # In float32 at least: the square of a fine float16 value can be infinite.
    norms: Tensor = torch.linalg.vector_norm(
        matrix.detach(), dim=1, dtype=torch.promote_types(matrix.dtype, torch.float32)
    )
    return ~norms.isfinite() | (norms == 0) if zero_is_bad else ~norms.isfinite()


def _raise_bad_row(name: str, matrix: Tensor, is_bad: Tensor) -> None:
    count, row = int(is_bad.sum()), int(is_bad.nonzero()[0, 0])
    values = matrix[row]
    if values.isnan().any():
        what = "holds NaN"
    elif values.isinf().any():
        what = "holds an infinite value"
    elif values.any():
        what = f"is too long or too short for {matrix.dtype}"
    else:
        what = "is all zero, so it has no direction"
    raise ValueError(
        f"{name} (shape {tuple(matrix.shape)}) cannot be used: row {row} {what} "
        f"({count} such row{'s' if count > 1 else ''})"
    )
