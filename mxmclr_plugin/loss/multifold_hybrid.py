"""The multifold hybrid loss as a criterion for lightly's training loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from lightly.utils import dist
from torch import Tensor, nn
from torch import distributed as torch_dist

from mxmclr_plugin.loss.distributed.gather import Gather, check_gather, choose_exchange, gather_rows
from mxmclr_plugin.loss.distributed.loss import sharded_hybrid_loss
from mxmclr_plugin.loss.folds import flatten_folds
from mxmclr_plugin.loss.functional import SoftLevel, multifold_hybrid_loss
from mxmclr_plugin.loss.implementation import Implementation
from mxmclr_plugin.loss.memory_bank import ObservationQueue
from mxmclr_plugin.loss.validation import check_options
from mxmclr_plugin.registry import register_loss

__all__ = ["MAX_SCALE", "MultifoldHybridCriterion"]

MAX_SCALE = 100.0
"""Bound of a learnable scale, as in CLIP (https://arxiv.org/abs/2103.00020, section 2.5)."""


@register_loss(
    "mxmclr",
    positives="many",
    source="mxmclr_plugin",
    paper="reconstruction of MXM-CLR, https://arxiv.org/abs/2303.10839",
)
class MultifoldHybridCriterion(nn.Module):
    """Multifold hybrid loss between two modalities, or two sets of views, or within one.

    Every observation of an instance in the other modality is a positive (hard relation), and
    other instances count as positives in the measure in which they are alike (soft relation); see
    :func:`multifold_hybrid_loss` for the formulas. Called like lightly's criteria, with one more
    pair of arguments where an instance has several observations.

    This is a reconstruction of the idea of MXM-CLR[0], not its authors' code.

    - [0] MXM-CLR, 2023, https://arxiv.org/abs/2303.10839

    Attributes:
        temperature:
            Logits are divided by it. With ``learnable_temperature`` its value at the start.
        soft_temperature:
            Temperature of the relation between instances.
        hard_weight:
            Weight of the hard part, 0 to 1; the soft part has the rest.
        soft_level:
            ``"observation"`` or ``"instance"``: which logits the soft part is held to.
        learnable_temperature:
            If True the scale 1 / temperature is learned on a log scale and kept at or below 100.
        gather_distributed:
            If True the loss is that of the rows of all processes, which may hold different numbers
            of them, on each process. Under ``DistributedDataParallel`` parameters then get the
            gradient of one process that had all rows; see
            :func:`~mxmclr_plugin.loss.distributed.gather.gather_rows`.
        gather:
            How rows of other processes take part. ``"rows"``: every process has the rows of all and
            computes the whole loss. ``"all_gather"``: its own rows against gathered columns.
            ``"ring"``: the same with columns that pass by; see
            :func:`~mxmclr_plugin.loss.distributed.loss.sharded_hybrid_loss`. ``"auto"`` is
            ``"all_gather"`` where the loss of all rows would be streamed (see ``impl``), and else
            ``"rows"``, as it is with a memory bank.
        memory_bank_size:
            Size of a queue of past observations as (entries, dim), 0 for none. Past observations
            of ``z1`` are columns of the direction from ``z0`` to ``z1`` beside those of the batch,
            without gradient; one of an instance that is in the batch is a positive. The direction
            from ``z1`` to ``z0`` is that of the batch alone. Without ``z1`` they are those of
            ``z0``. As in lightly the queue changes only when ``z0`` needs a gradient, and is that
            of all processes if ``gather_distributed``; otherwise than in lightly the batch's other
            rows are negatives beside it, entries not filled yet are left out, and the state dict
            holds it.
        impl:
            Which implementation computes the loss.
        validate:
            If False the values of embeddings are not looked at, which saves a wait for the device
            in each step. Shapes are always checked.
        last:
            Detached ``loss``, ``hard``, ``soft`` and ``scale`` of the last call, for logging. A
            part of weight 0 is not computed and is missing.

    Raises:
        ValueError: If a temperature is not positive (or, if learnable, under 0.01), another
            option is out of range or does not fit the others, or ``gather_distributed`` is True but
            ``torch.distributed`` is not available.

    Examples:
        >>> criterion = MultifoldHybridCriterion(temperature=0.07)
        >>>
        >>> # 8 shapes with 2 views and 5 captions each
        >>> views, captions = torch.randn(8, 2, 64), torch.randn(8, 5, 64)
        >>> loss = criterion(views, captions)
        >>>
        >>> # ragged: row k of z0 observes instance ids0[k]
        >>> z0, ids0 = torch.randn(3, 64), torch.tensor([7, 7, 9])
        >>> z1, ids1 = torch.randn(4, 64), torch.tensor([9, 7, 9, 9])
        >>> loss = criterion(z0, z1, ids0, ids1)
        >>>
        >>> # one modality: every view of an instance with its other views, 8 images with 4 views
        >>> loss = criterion(torch.randn(8, 4, 64))
    """

    log_scale: Tensor

    def __init__(
        self,
        temperature: float = 0.07,
        soft_temperature: float = 0.05,
        hard_weight: float = 0.8,
        soft_level: SoftLevel = "observation",
        learnable_temperature: bool = False,
        impl: Implementation = "auto",
        validate: bool = True,
        gather_distributed: bool = False,
        memory_bank_size: int | Sequence[int] = 0,
        gather: Gather = "auto",
    ) -> None:
        super().__init__()
        check_options(temperature, soft_temperature, hard_weight, soft_level, impl)
        if gather_distributed and not torch_dist.is_available():
            raise ValueError(
                "gather_distributed is True but torch.distributed is not available. "
                "Please set gather_distributed=False or install a torch version with "
                "distributed support."
            )
        if learnable_temperature and temperature < 1 / MAX_SCALE:
            raise ValueError(
                f"a learnable temperature starts at {1 / MAX_SCALE} or above, got {temperature}"
            )
        self.temperature = temperature
        self.soft_temperature = soft_temperature
        self.hard_weight = hard_weight
        self.soft_level: SoftLevel = soft_level
        self.learnable_temperature = learnable_temperature
        self.impl: Implementation = impl
        self.validate = validate
        self.gather_distributed = gather_distributed
        self.memory_bank_size = memory_bank_size
        self.memory_bank = ObservationQueue(memory_bank_size)
        check_gather(gather, gather_distributed, impl, len(self.memory_bank) > 0)
        self.gather: Gather = gather
        self.last: dict[str, Tensor] = {}
        if learnable_temperature:
            self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(
        self,
        z0: Tensor | Sequence[Tensor],
        z1: Tensor | Sequence[Tensor] | None = None,
        ids0: Tensor | None = None,
        ids1: Tensor | None = None,
        soft_features0: Tensor | Sequence[Tensor] | None = None,
        soft_features1: Tensor | Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Loss between the observations in ``z0`` and those in ``z1``, or within ``z0``.

        Args:
            z0: Embeddings, raw or of unit length. Shape: (rows, D), or (N, fold, D), or a list of
                ``fold`` views of shape (N, D).
            z1: Embeddings of the other modality or views, in one of the same shapes. None: all
                observations in ``z0`` meet each other, but none meets itself.
            ids0: Instance ids of ``z0``: (rows,) for rows, (N,) or (N, fold) for folds. None: the
                k-th entry of ``z0`` is instance k, and of another instance than what other
                processes and the memory bank hold.
            ids1: The same for ``z1``.
            soft_features0: What the soft relation is taken from in place of ``z0``, say features of
                a frozen encoder of the same observations, which no gradient follows. In the shape
                of ``z0``, but for the width. Not together with a memory bank.
            soft_features1: The same in place of ``z1``.

        Returns:
            The loss. Shape: ().

        Raises:
            ValueError: If shapes, dtypes or devices do not fit together, if only one of ``ids0``
                and ``ids1`` is given where rows of other processes or batches take part, if there
                are soft features and a memory bank, and with ``validate`` if a row is zero, NaN or
                infinite or no row of ``z0`` has a positive.
        """
        return self.parts(z0, z1, ids0, ids1, soft_features0, soft_features1)["loss"]

    def parts(
        self,
        z0: Tensor | Sequence[Tensor],
        z1: Tensor | Sequence[Tensor] | None = None,
        ids0: Tensor | None = None,
        ids1: Tensor | None = None,
        soft_features0: Tensor | Sequence[Tensor] | None = None,
        soft_features1: Tensor | Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The loss and its parts with their gradients, for those that want to weigh them anew.

        Called as :meth:`forward` is.

        Returns:
            ``loss``, ``hard`` and ``soft``, each of shape (); a part of weight 0 is missing.
        """
        z0 = _stack_views(z0, "z0")
        z1 = None if z1 is None else _stack_views(z1, "z1")
        ids_given = ids0 is not None or ids1 is not None
        most = _most_instances(z0, z1, ids0, ids1)
        ids0, ids1 = self._ids(z0, z1, ids0, ids1)
        a, ids_a = flatten_folds(z0, ids0, "z0")
        b, ids_b = (None, None) if z1 is None else flatten_folds(z1, ids1, "z1")
        soft_a = _as_rows(soft_features0, "soft_features0")
        soft_b = _as_rows(soft_features1, "soft_features1")
        if len(self.memory_bank) and not (soft_a is None and soft_b is None):
            # Said at the first step: the bank is still empty then, and nothing else would object.
            raise ValueError(
                "soft features cannot be used with a memory bank, which keeps none of past "
                "observations: set memory_bank_size=0"
            )
        exchange = None
        if self.gather_distributed:
            exchange = choose_exchange(self.gather, self.impl, len(self.memory_bank) > 0, a, b)
            most = None  # other processes may hold more
            if exchange is None:
                # By the ids of their rows on this process.
                soft_a = None if soft_a is None else gather_rows(soft_a, ids_a)[0]
                soft_b = None if soft_b is None or ids_b is None else gather_rows(soft_b, ids_b)[0]
                a, ids_a = gather_rows(a, ids_a)
                if b is not None and ids_b is not None:
                    b, ids_b = gather_rows(b, ids_b)
        queue = self._queue(a, ids_given) if len(self.memory_bank) else {}
        if most is not None and queue:
            most += len(queue["queue"])
        temperature = self._current_temperature()
        loss_of: Callable[..., Any] = partial(multifold_hybrid_loss, num_instances=most)
        if exchange is not None:
            loss_of = partial(sharded_hybrid_loss, exchange=exchange)
        loss_of = partial(
            loss_of,
            temperature=temperature,
            soft_temperature=self.soft_temperature,
            hard_weight=self.hard_weight,
            soft_level=self.soft_level,
            impl=self.impl,
            validate=self.validate,
            soft_features_a=soft_a,
            soft_features_b=soft_b,
        )
        parts: dict[str, Tensor]
        if 0 < self.hard_weight < 1:
            parts = loss_of(a, b, ids_a, ids_b, **queue, return_parts=True)
        else:
            loss: Tensor = loss_of(a, b, ids_a, ids_b, **queue)
            parts = {"loss": loss, "hard" if self.hard_weight == 1 else "soft": loss}
        if len(self.memory_bank) and a.requires_grad:
            past, past_ids = (a, ids_a) if b is None or ids_b is None else (b, ids_b)
            self.memory_bank.add(past, past_ids, ids_given)
        self.last = {name: part.detach() for name, part in parts.items()}
        self.last["scale"] = (parts["loss"].detach().new_ones(()) / temperature).detach()
        return parts

    def _ids(
        self, z0: Tensor, z1: Tensor | None, ids0: Tensor | None, ids1: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Instance ids that hold beyond this process and this batch, where that matters."""
        if z1 is None and ids1 is not None:
            raise ValueError("ids1 is given but z1 is None; ids of z0 are ids0")
        beyond = self.gather_distributed or len(self.memory_bank) > 0
        if ids0 is None and ids1 is None:
            if z1 is not None and len(z0) != len(z1):
                raise ValueError(
                    f"without ids z0 and z1 must hold the same instances, got shapes "
                    f"{tuple(z0.shape)} and {tuple(z1.shape)}; give ids0 and ids1"
                )
            if beyond:
                ids = torch.arange(len(z0), device=z0.device)
                if self.gather_distributed:
                    ids = ids * dist.world_size() + dist.rank()
                if len(self.memory_bank):
                    ids = ids + self.memory_bank.next_id().to(ids.device)
                return ids, None if z1 is None else ids
        elif beyond and z1 is not None and (ids0 is None or ids1 is None):
            raise ValueError(
                "with gather_distributed or a memory bank give both ids0 and ids1 or neither: "
                "numbers of one side cannot be compared with ids that you give for the other"
            )
        return ids0, ids1

    def _queue(self, a: Tensor, ids_given: bool) -> dict[str, Tensor]:
        """The arguments that stand for the memory bank; none while it is empty."""
        if a.shape[1] != self.memory_bank.size[1]:
            raise ValueError(
                f"memory_bank_size is {self.memory_bank_size}, for embeddings of width "
                f"{self.memory_bank.size[1]}, but z0 has width {a.shape[1]}"
            )
        self.memory_bank.check_origin(ids_given)
        rows, ids = self.memory_bank.entries()
        return {"queue": rows.to(a.device), "queue_ids": ids.to(a.device)} if len(rows) else {}

    def _current_temperature(self) -> float | Tensor:
        if not self.learnable_temperature:
            return self.temperature
        # Bounded in value but not in gradient, or nothing would lead back from the bound; and not
        # in place, since an earlier call may still be waiting for its backward pass.
        excess = (self.log_scale.detach() - math.log(MAX_SCALE)).clamp(min=0)
        return torch.exp(excess - self.log_scale)

    def extra_repr(self) -> str:
        return (
            f"temperature={self.temperature}, soft_temperature={self.soft_temperature}, "
            f"hard_weight={self.hard_weight}, soft_level={self.soft_level!r}, "
            f"learnable_temperature={self.learnable_temperature}, impl={self.impl!r}, "
            f"gather_distributed={self.gather_distributed}, gather={self.gather!r}, "
            f"memory_bank_size={self.memory_bank_size}"
        )


def _stack_views(z: Tensor | Sequence[Tensor], name: str) -> Tensor:
    """One tensor of what may be a list of views. Shape: (rows, D) or (N, fold, D)."""
    if isinstance(z, Tensor):
        return z
    shapes = {tuple(view.shape) for view in z}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(
            f"{name} as a list of views must hold tensors of one shape (N, D), got "
            f"{', '.join(map(str, sorted(shapes))) or 'an empty list'}"
        )
    return torch.stack(tuple(z), dim=1)


def _as_rows(features: Tensor | Sequence[Tensor] | None, name: str) -> Tensor | None:
    """Features of each row. Shape: (rows, any width)."""
    if features is None:
        return None
    rows = _stack_views(features, name)
    if rows.ndim < 2:
        raise ValueError(
            f"{name} must be of shape (rows, width) or (N, fold, width), got {tuple(rows.shape)}"
        )
    return rows.flatten(0, -2)


def _most_instances(
    z0: Tensor, z1: Tensor | None, ids0: Tensor | None, ids1: Tensor | None
) -> int | None:
    """A bound of the number of instances that follows from shapes, if it is a good one.

    Each entry of (N, fold, D) is one instance, unless each of its observations has its own id.
    """
    sides = [(z0, ids0)] if z1 is None else [(z0, ids0), (z1, ids1)]
    if any(z.ndim == 2 and ids is not None for z, ids in sides):
        return None
    if any(ids is not None and ids.ndim != 1 for _, ids in sides):
        return None
    lengths = [len(z) for z, _ in sides]
    # Without ids entry k of both is the same instance.
    return max(lengths) if ids0 is None and ids1 is None else sum(lengths)
