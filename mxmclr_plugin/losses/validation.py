"""Checks of what a multifold loss is given; every message names the argument and the place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["check_options", "check_shapes", "check_values"]

_SOFT_LEVELS = ("observation", "instance")
_IMPLEMENTATIONS = ("auto", "dense")


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
        _check_positive("temperature", temperature)
    _check_positive("soft_temperature", soft_temperature)
    if not _is_number(hard_weight) or not 0 <= hard_weight <= 1:
        raise ValueError(f"hard_weight must be a number from 0 to 1, got {hard_weight!r}")
    for name, value, known in (
        ("soft_level", soft_level, _SOFT_LEVELS),
        ("impl", impl, _IMPLEMENTATIONS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")


def check_shapes(
    a: Tensor,
    b: Tensor,
    ids_a: Tensor,
    ids_b: Tensor,
    soft_features_a: Tensor | None = None,
    soft_features_b: Tensor | None = None,
) -> None:
    """Checks ranks, lengths, dtypes and devices; reads no value of a tensor.

    Raises:
        ValueError: If one of them does not fit.
    """
    for name, embeddings, ids, features in (
        ("a", a, ids_a, soft_features_a),
        ("b", b, ids_b, soft_features_b),
    ):
        _check_matrix(name, embeddings)
        if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex():
            kind = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
            raise ValueError(f"ids_{name} must be a tensor of integers, got {kind}")
        if ids.shape != embeddings.shape[:1]:
            raise ValueError(
                f"ids_{name} must hold one id for each of the {len(embeddings)} rows of {name}, "
                f"got shape {tuple(ids.shape)}"
            )
        if features is not None:
            _check_matrix(f"soft_features_{name}", features)
            if len(features) != len(embeddings):
                raise ValueError(
                    f"soft_features_{name} must have one row for each of the {len(embeddings)} "
                    f"rows of {name}, got shape {tuple(features.shape)}"
                )
        for other, tensor in ((f"ids_{name}", ids), (f"soft_features_{name}", features), ("b", b)):
            if tensor is not None and tensor.device != a.device:
                raise ValueError(f"{other} is on {tensor.device} but a is on {a.device}")
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            "a and b must have the same number of columns, "
            f"got shapes {tuple(a.shape)} and {tuple(b.shape)}"
        )


def check_values(
    a: Tensor,
    b: Tensor,
    ids_a: Tensor,
    ids_b: Tensor,
    soft_features_a: Tensor | None = None,
    soft_features_b: Tensor | None = None,
    *,
    temperature: float | Tensor = 1.0,
    normalize: bool = True,
) -> None:
    """Checks the values of tensors, with one wait for the device if all is well.

    Raises:
        ValueError: If a row is NaN, infinite or (where it is to be normalised) zero, if no row
            of ``a`` has a positive in ``b``, or if a temperature given as a tensor is not positive.
    """
    rows = [("a", a, normalize), ("b", b, normalize)]
    rows += [
        (name, features, True)
        for name, features in (
            ("soft_features_a", soft_features_a),
            ("soft_features_b", soft_features_b),
        )
        if features is not None
    ]
    bad = [_bad_rows(tensor, zero_is_bad) for _, tensor, zero_is_bad in rows]
    has_positive = torch.isin(ids_a, ids_b).any()
    all_is_well = has_positive & ~torch.stack([is_bad.any() for is_bad in bad]).any()
    if isinstance(temperature, Tensor):
        all_is_well = all_is_well & (temperature > 0).all().to(all_is_well.device)
    if not all_is_well:
        if isinstance(temperature, Tensor):
            _check_positive("temperature", temperature.item())
        for (name, tensor, _), is_bad in zip(rows, bad, strict=True):
            if is_bad.any():
                _raise_bad_row(name, tensor, is_bad)
        raise ValueError(
            f"no row of a (shape {tuple(a.shape)}) has a positive in b (shape {tuple(b.shape)}): "
            "ids_a and ids_b share no id, so there is nothing to learn from; draw batches in which "
            "an instance has observations in both modalities"
        )


def _check_matrix(name: str, matrix: Tensor) -> None:
    if not isinstance(matrix, Tensor) or matrix.ndim != 2:
        got = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
        raise ValueError(f"{name} must be a matrix of shape (rows, columns), got {got}")
    if 0 in matrix.shape:
        raise ValueError(f"{name} must have rows and columns, got shape {tuple(matrix.shape)}")
    if not matrix.is_floating_point():
        raise ValueError(f"{name} must be of a floating point dtype, got {matrix.dtype}")


def _check_positive(name: str, value: float) -> None:
    if not _is_number(value) or not value > 0 or math.isinf(value):
        raise ValueError(f"{name} must be a positive number, got {value!r}")


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
