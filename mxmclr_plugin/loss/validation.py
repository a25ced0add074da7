"""Checks of the arguments of a multifold loss; every message names the argument and the place."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from mxmclr_plugin.loss.arguments import Batch, Implementation, Options, SoftScope
from mxmclr_plugin.loss.host_copy import HostCopy, reads_later

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

_CHOICES = {"impl": get_args(Implementation), "soft_scope": get_args(SoftScope)}


def check_positive(name: str, value: float) -> None:
    """Raises a ValueError that names the option unless its value is a finite number above 0."""
    if not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def check_share(name: str, value: float) -> None:
    """Raises a ValueError that names the option unless its value is a number from 0 to 1."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")


def check_options(options: Options, *, one_modality: bool = False) -> None:
    """Checks the options of the multifold hybrid loss; reads no value of a tensor.

    Raises:
        ValueError: If an option is out of range.
    """
    temperature = options.temperature
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1:
            raise ValueError(
                f"temperature must hold one element, got shape {tuple(temperature.shape)}"
            )
    else:
        check_positive("temperature", temperature)
    if options.soft_temperature != math.inf:
        check_positive("soft_temperature", options.soft_temperature)
    check_share("hard_weight", options.hard_weight)
    if options.relation_within != 0:
        check_positive("relation_within", options.relation_within)
        if one_modality:
            raise ValueError(
                "relation_within needs two modalities: with z1=None the soft part is within one"
            )
    for name, known in _CHOICES.items():
        value = getattr(options, name)
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    for name, least in (("tile", 1), ("cache_bytes", 0), ("num_instances", 1)):
        value = getattr(options, name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}")


def check_shapes(batch: Batch, *, may_be_empty: bool = False) -> None:
    """Checks ranks, lengths, dtypes and devices; reads no value of a tensor.

    With ``may_be_empty`` there may be no rows, since other processes may have some.

    Raises:
        ValueError: If one of them does not fit.
    """
    z0 = batch.z0
    _check_matrix("z0", z0, may_be_empty)
    for name, z, ids_name, ids, features in (
        ("z0", z0, "ids0", batch.ids0, batch.soft_features0),
        ("z1", batch.z1, "ids1", batch.ids1, batch.soft_features1),
        ("queue", batch.queue, "queue_ids", batch.queue_ids, None),
        ("negatives", batch.negatives, "", None, None),
    ):
        features_name = f"soft_features{name[-1]}"
        if z is None:
            for other, tensor in ((ids_name, ids), (features_name, features)):
                if tensor is not None:
                    raise ValueError(f"{other} is given but {name} is None")
            continue
        _check_matrix(name, z, may_be_empty or name == "negatives")
        if ids_name:
            _check_ids(ids_name, ids, name, len(z))
        if features is not None:
            _check_matrix(features_name, features, may_be_empty)
            if len(features) != len(z):
                raise ValueError(
                    f"{features_name} must have one row for each of the {len(z)} "
                    f"rows of {name}, got shape {tuple(features.shape)}"
                )
        for other, tensor in ((ids_name, ids), (features_name, features), (name, z)):
            if tensor is not None and tensor.device != z0.device:
                raise ValueError(f"{other} is on {tensor.device} but z0 is on {z0.device}")
        if z0.shape[1] != z.shape[1]:
            raise ValueError(
                f"z0 and {name} must have the same number of columns, "
                f"got shapes {tuple(z0.shape)} and {tuple(z.shape)}"
            )
    if batch.queue is not None and not (
        batch.soft_features0 is None and batch.soft_features1 is None
    ):
        raise ValueError(
            "queue and soft features cannot be used together: the queue has no soft features"
        )


def check_values(batch: Batch, options: Options | None = None) -> None:
    """Checks the values of tensors; synchronizes with the device once if all is well.

    Raises:
        ValueError: If a row is NaN, infinite or (where rows are normalised) zero, if no row
            of ``z0`` has a positive in ``z1`` or ``queue`` (with ``z1=None``: no two rows of ``z0``
            and ``queue`` share an id), if a temperature given as a tensor is no positive number, or
            if there are more distinct ids than ``num_instances``.
    """
    findings_of(batch, options or Options()).check()


@dataclass(frozen=True, eq=False)
class _Rows:
    """What was found in a matrix of which every row must be usable.

    Attributes:
        name: Name of the argument.
        shape: Its shape.
        bad: Number of bad rows, and the first of them. Shape: (2,), int64.
        row: The values of that row; of row 0 if there is none. Shape: (1, columns).
    """

    name: str
    shape: tuple[int, ...]
    bad: Tensor
    row: Tensor

    @classmethod
    def of(cls, name: str, matrix: Tensor, zero_is_bad: bool) -> _Rows:
        matrix = matrix.detach()
        # In float32 at least: the square of a fine float16 value can be infinite.
        norms: Tensor = torch.linalg.vector_norm(
            matrix, dim=1, dtype=torch.promote_types(matrix.dtype, torch.float32)
        )
        is_bad = ~norms.isfinite() | (norms == 0) if zero_is_bad else ~norms.isfinite()
        first = is_bad.byte().argmax(keepdim=True)
        # Not matrix[first]: an index of one element would be read by the host.
        row = matrix.index_select(0, first)
        return cls(name, tuple(matrix.shape), torch.cat((is_bad.sum()[None], first)), row)

    def message(self, count: int, row: int) -> str:
        values = self.row
        if values.isnan().any():
            what = "holds NaN"
        elif values.isinf().any():
            what = "holds an infinite value"
        elif values.any():
            what = f"is too long or too short for {values.dtype}"
        else:
            what = "is all zero, so it has no direction"
        return (
            f"{self.name} (shape {self.shape}) cannot be used: row {row} {what} "
            f"({count} such row{'s' if count > 1 else ''})"
        )


@dataclass(frozen=True, eq=False)
class Findings:
    """What was found in the values of a batch.

    Attributes:
        facts: Whether a row of ``z0`` has a positive, whether the temperature is positive, the
            number of distinct ids or 0, then the bad rows of each matrix and the first of them.
            Shape: (3 + 2 * matrices,), int64.
        rows: What was found in each matrix.
        temperature: A temperature that was given as a tensor; None for a number.
        num_instances: Bound of the number of distinct ids, if one was given.
        shapes: Shapes of ``z0`` and ``z1``, None for one modality.
    """

    facts: HostCopy
    rows: list[_Rows]
    temperature: Tensor | None
    num_instances: int | None
    shapes: tuple[tuple[int, ...], tuple[int, ...] | None]

    def check(self) -> None:
        """Reads the facts.

        Raises:
            ValueError: As for :func:`check_values`.
        """
        # Not tolist, which fails under torch.func.grad of torch 2.6.
        has_positive, positive_temperature, instances, *bad = (
            fact.item() for fact in self.facts.read()
        )
        if self.num_instances is not None and instances > self.num_instances:
            raise ValueError(
                f"num_instances is {self.num_instances}, but there are {instances} distinct ids; "
                "give as many or more, or None"
            )
        if self.temperature is not None and not positive_temperature:
            check_positive("temperature", self.temperature.item())
        for found, count, row in zip(self.rows, bad[::2], bad[1::2], strict=True):
            if count:
                raise ValueError(found.message(count, row))
        if has_positive:
            return
        shape0, shape1 = self.shapes
        if shape1 is None:
            raise ValueError(
                f"no row of z0 (shape {shape0}) has a positive: ids0 holds every id once, "
                "so there is nothing to learn from; give several observations of an instance"
            )
        raise ValueError(
            f"no row of z0 (shape {shape0}) has a positive in z1 (shape {shape1}): "
            "ids0 and ids1 share no id, so there is nothing to learn from; draw batches in which "
            "an instance has observations in both modalities"
        )


def findings_of(batch: Batch, options: Options) -> Findings:
    """Looks at the values of a batch, without waiting for its device."""
    rows = [
        _Rows.of(name, matrix, zero_is_bad)
        for name, matrix, zero_is_bad in (
            ("z0", batch.z0, options.normalize),
            ("z1", batch.z1, options.normalize),
            ("soft_features0", batch.soft_features0, True),
            ("soft_features1", batch.soft_features1, True),
            ("queue", batch.queue, options.normalize),
            ("negatives", batch.negatives, options.normalize),
        )
        if matrix is not None and len(matrix) > 0
    ]
    has_positive = _has_positive(batch).long()
    temperature = options.temperature if isinstance(options.temperature, Tensor) else None
    is_positive = torch.ones_like(has_positive)
    if temperature is not None:
        temperature = temperature.detach().clone()  # an optimizer may change it in place
        valid = ((temperature > 0) & temperature.isfinite()).all()
        is_positive = valid.to(is_positive.device, non_blocking=True).long()
    instances = torch.zeros_like(has_positive)
    all_ids = [x for x in (batch.ids0, batch.ids1, batch.queue_ids) if x is not None]
    if options.num_instances is not None and options.num_instances < sum(map(len, all_ids)):
        ordered = torch.cat(all_ids).sort().values
        instances = (ordered[1:] != ordered[:-1]).sum() + 1
    facts = torch.cat(
        [torch.stack((has_positive, is_positive, instances)), *(of.bad for of in rows)]
    )
    shapes = tuple(batch.z0.shape), None if batch.z1 is None else tuple(batch.z1.shape)
    return Findings(HostCopy(facts), rows, temperature, options.num_instances, shapes)


class ValueChecks:
    """Checks the values of batch after batch; on a CUDA device each is read at the next call.

    So the host does not wait for the device. Elsewhere a check is read at once.
    """

    def __init__(self) -> None:
        self._calls = 0
        # Several where threads share a loss, as the replicas of DataParallel do.
        self._pending: deque[tuple[int, Findings]] = deque()

    def __call__(self, batch: Batch, options: Options) -> None:
        """Begins the check of a batch, and reads that of the one before.

        Raises:
            ValueError: As for :func:`check_values`. For the batch before, the message says so.
        """
        self._calls += 1
        number = self._calls
        self.read()
        findings = findings_of(batch, options)
        # What a transform of torch.func traces must not outlive it.
        if not reads_later(batch.z0.device) or torch._C._are_functorch_transforms_active():
            findings.check()
            return
        self._pending.append((number, findings))

    def read(self) -> None:
        """Reads the check of the last batch if nobody has read it.

        Raises:
            ValueError: As for :func:`check_values`.
        """
        while self._pending:
            try:
                number, pending = self._pending.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                pending.check()
            except ValueError as error:
                raise ValueError(f"call {number} of this loss, read after it: {error}") from None

    def __reduce__(self) -> tuple[type[ValueChecks], tuple[()]]:
        # A copy, also in a file, has calls of its own.
        return ValueChecks, ()


def _has_positive(batch: Batch) -> Tensor:
    """Whether any row of ``z0`` has a positive. Shape: ()."""
    found = [
        _shares_an_id(batch.ids0, ids) for ids in (batch.ids1, batch.queue_ids) if ids is not None
    ]
    if batch.ids1 is None:
        ordered = batch.ids0.sort().values
        found.append((ordered[1:] == ordered[:-1]).any())
    return torch.stack(found).any()


def _shares_an_id(ids0: Tensor, ids1: Tensor) -> Tensor:
    """Whether any id is in both. Shape: ()."""
    if len(ids0) == 0 or len(ids1) == 0:
        return torch.zeros((), dtype=torch.bool, device=ids0.device)
    # Not torch.isin, for which the host waits.
    ordered = ids1.long().sort().values
    places = torch.searchsorted(ordered, ids0.long().contiguous()).clamp(max=len(ordered) - 1)
    return (ordered[places] == ids0).any()


def _check_ids(ids_name: str, ids: Tensor | None, name: str, rows: int) -> None:
    if not isinstance(ids, Tensor) or ids.dtype not in _INTEGERS:
        kind = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(f"{ids_name} must be a tensor of integers, got {kind}")
    if ids.shape != (rows,):
        raise ValueError(
            f"{ids_name} must hold one id for each of the {rows} rows of {name}, "
            f"got shape {tuple(ids.shape)}"
        )


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
