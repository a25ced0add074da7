"""The multifold hybrid loss as a module, called like lightly's losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn
from torch import distributed as torch_dist

from mxmclr_plugin.loss.arguments import (
    HARD_WEIGHT,
    SOFT_TEMPERATURE,
    TEMPERATURE,
    Batch,
    Implementation,
    Options,
    SoftScope,
)
from mxmclr_plugin.loss.distributed.exchange import Ranks
from mxmclr_plugin.loss.distributed.gather import (
    Gather,
    check_gather,
    choose_exchange,
    gather_batch,
)
from mxmclr_plugin.loss.distributed.loss import sharded_hybrid_parts
from mxmclr_plugin.loss.folds import check_same_length, flatten_folds
from mxmclr_plugin.loss.functional import HybridLossParts, hybrid_parts, public_parts
from mxmclr_plugin.loss.host_copy import reads_later
from mxmclr_plugin.loss.kernels.parts import scale_of
from mxmclr_plugin.loss.memory_bank import ObservationQueue
from mxmclr_plugin.loss.reference import Parts
from mxmclr_plugin.loss.validation import ValueChecks, check_options, check_values
from mxmclr_plugin.registry import register_loss

_FEW_ROWS = 4096
"""Rows up to which a relation of as many instances costs less than to wait for their number."""

MAX_SCALE = 100.0
"""Bound of a learnable scale, as in CLIP (https://arxiv.org/abs/2103.00020, section 2.5)."""


@register_loss(
    "mxmclr",
    positives="many",
    source="mxmclr_plugin",
    paper="reconstruction of MXM-CLR, https://arxiv.org/abs/2303.10839",
)
class MultifoldHybridLoss(nn.Module):
    """Multifold hybrid loss between two modalities, or two sets of views, or within one.

    Treats all observations of the same instance as positives (hard part), and orders the other
    instances by their similarity to it (soft part); see
    :func:`~mxmclr_plugin.loss.functional.multifold_hybrid_loss` for the formulas. Called like
    lightly's losses, with one more pair of arguments if an instance has several observations.

    This is a reconstruction of the idea of MXM-CLR[0], not its authors' code.

    - [0] MXM-CLR, 2023, https://arxiv.org/abs/2303.10839

    Attributes:
        temperature:
            Logits are divided by it. With ``learnable_temperature`` its value at the start.
        memory_bank_size:
            Size of a queue of past observations as (entries, dim), 0 for none. Past observations
            of ``z1`` are columns of the direction from ``z0`` to ``z1`` beside those of the batch,
            without gradient; one of an instance that is in the batch is a positive. The direction
            from ``z1`` to ``z0`` is that of the batch alone. Without ``z1`` they are those of
            ``z0``. As in lightly the queue changes only when ``z0`` needs a gradient, and is that
            of all processes if rows are gathered. Unlike in lightly the batch's other
            rows are negatives beside it, entries not filled yet are left out, and the state dict
            holds it.
        gather_distributed:
            If True the loss is that of the rows of all processes, which may hold different numbers
            of them, on each process. If False each process compares its own rows alone. None
            gathers if there is a process group of several processes. Under
            ``DistributedDataParallel`` parameters then get the gradient of one process that had all
            rows.
        soft_temperature:
            Temperature of the relation between instances, in standard deviations. Infinity treats
            all other instances alike.
        hard_weight:
            Weight of the hard part, 0 to 1; the soft part has the rest.
        soft_scope:
            ``"others"``: the soft part orders the other instances. ``"all"``: it compares with the
            own instance too, and ``soft_temperature`` is a plain temperature, such as 0.05.
        relation_within:
            Weight of the soft part within each of the two modalities.
        learnable_temperature:
            If True the scale 1 / temperature is learned on a log scale and kept at or below 100.
            The parameter is ``log_scale``, of shape (1,).
        impl:
            Which implementation computes the loss, as in ``multifold_hybrid_loss``.
        validate:
            If False the values of embeddings are not checked. Shapes are always checked. On a CUDA
            device the check of a call is read at the next call, at ``state_dict()`` or by
            :meth:`check_last_call`, so that the host does not wait for the device; the error then
            names the call. (Gathered rows and a memory bank are waited for in any case.)
        gather:
            How rows of other processes take part. ``"rows"``: every process has the rows of all and
            computes the whole loss. ``"all_gather"``: its own rows against gathered columns.
            ``"ring"``: the same with columns that pass by. ``"auto"`` is ``"all_gather"`` where the
            loss of all rows would be streamed (see ``impl``), and else ``"rows"``, as it is with a
            memory bank.
        last:
            Detached ``loss``, ``hard``, ``soft``, ``within`` and ``scale`` of the last call, for
            logging. A part of weight 0 is not computed and is missing.

    Raises:
        ValueError: If a temperature is not positive (or, if learnable, under 0.01), another
            option is out of range or does not fit the others, or ``gather_distributed`` is True but
            ``torch.distributed`` is not available.

    Examples:
        >>> criterion = MultifoldHybridLoss(temperature=0.07)
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

    cache_bytes: int | None = None
    """As for :func:`multifold_hybrid_loss`; 0 where there is no memory for it."""

    def __init__(
        self,
        temperature: float = TEMPERATURE,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool | None = None,
        *,
        soft_temperature: Annotated[float, Gt(0), Le(float("inf"))] = SOFT_TEMPERATURE,
        hard_weight: float = HARD_WEIGHT,
        soft_scope: SoftScope = "others",
        relation_within: float = 0.0,
        learnable_temperature: bool = False,
        impl: Implementation = "auto",
        validate: bool = True,
        gather: Gather = "auto",
    ) -> None:
        super().__init__()
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
        self.memory_bank_size = memory_bank_size
        self.gather_distributed = gather_distributed
        self.soft_temperature = soft_temperature
        self.hard_weight = hard_weight
        self.soft_scope: SoftScope = soft_scope
        self.relation_within = relation_within
        self.learnable_temperature = learnable_temperature
        self.impl: Implementation = impl
        self.validate = validate
        self.memory_bank = None if memory_bank_size == 0 else ObservationQueue(memory_bank_size)
        check_options(self._options(temperature))
        check_gather(gather, gather_distributed is not False, impl, self.memory_bank is not None)
        self.gather: Gather = gather
        self.last: dict[str, Tensor] = {}
        self._checks = ValueChecks()
        self.register_state_dict_pre_hook(_check_before_saving)
        if learnable_temperature:
            # Of one dimension, as FSDP shards parameters by their first.
            self.log_scale = nn.Parameter(torch.empty(1))
            self.reset_parameters()

    @property
    def uses_relation(self) -> bool:
        """Whether the loss depends on how alike instances are, so that soft features matter."""
        return self._options(self.temperature).uses_relation

    @property
    def _gathers(self) -> bool:
        return Ranks().size > 1 if self.gather_distributed is None else self.gather_distributed

    def _options(self, temperature: float | Tensor, most: int | None = None) -> Options:
        return Options(
            temperature,
            self.soft_temperature,
            self.hard_weight,
            self.soft_scope,
            self.relation_within,
            impl=self.impl,
            cache_bytes=self.cache_bytes,
            num_instances=most,
            validate=self.validate,
        )

    def reset_parameters(self) -> None:
        """Sets a learnable temperature back to its start, and empties a memory bank."""
        if self.memory_bank is not None:
            self.memory_bank.reset_parameters()
        if self.learnable_temperature:
            nn.init.constant_(self.log_scale, -math.log(self.temperature))

    def forward(
        self,
        z0: Tensor | Sequence[Tensor],
        z1: Tensor | Sequence[Tensor] | None = None,
        ids0: Tensor | None = None,
        ids1: Tensor | None = None,
        soft_features0: Tensor | Sequence[Tensor] | None = None,
        soft_features1: Tensor | Sequence[Tensor] | None = None,
        *,
        temperature: float | Tensor | None = None,
        negatives: Tensor | None = None,
    ) -> Tensor:
        """Loss between the observations in ``z0`` and those in ``z1``, or within ``z0``.

        Args:
            z0: Embeddings, raw or of unit length. Shape: (rows, D), or (N, fold, D), or a list of
                ``fold`` views of shape (N, D).
            z1: Embeddings of the other modality or views, in one of the same shapes. None: all
                observations in ``z0`` are compared with each other, but none with itself.
            ids0: Instance ids of ``z0``: (rows,) for rows, (N,) or (N, fold) for folds. None: the
                k-th entry of ``z0`` is instance k, and of another instance than those of other
                processes and of the memory bank.
            ids1: The same for ``z1``.
            soft_features0: Features that give the soft relation in place of ``z0``, such as those
                of a frozen encoder of the same observations; without gradient. In the shape
                of ``z0``, but for the width. Not together with a memory bank.
            soft_features1: The same in place of ``z1``.
            temperature: Temperature of this call in place of the module's, such as that of a model
                which learns it; a number or a tensor of one element.
            negatives: Hard negatives: columns for every row of ``z0``, with a gradient, towards
                which nothing is pulled. With several processes each needs all rows then, whatever
                ``gather`` says. Shape: (rows, D).

        Returns:
            The loss. Shape: ().

        Raises:
            ValueError: If shapes, dtypes or devices do not fit together, if only one of ``ids0``
                and ``ids1`` is given where rows of other processes or batches take part, if there
                are soft features and a memory bank, and with ``validate`` if a row is zero, NaN or
                infinite or no row of ``z0`` has a positive.
        """
        arguments = (z0, z1, ids0, ids1, soft_features0, soft_features1)
        return self._compute(
            *arguments, differentiable=False, temperature=temperature, negatives=negatives
        ).loss

    def parts(
        self,
        z0: Tensor | Sequence[Tensor],
        z1: Tensor | Sequence[Tensor] | None = None,
        ids0: Tensor | None = None,
        ids1: Tensor | None = None,
        soft_features0: Tensor | Sequence[Tensor] | None = None,
        soft_features1: Tensor | Sequence[Tensor] | None = None,
        *,
        temperature: float | Tensor | None = None,
        negatives: Tensor | None = None,
    ) -> HybridLossParts:
        """The loss and its parts, each differentiable; called as :meth:`forward` is."""
        arguments = (z0, z1, ids0, ids1, soft_features0, soft_features1)
        return public_parts(
            self._compute(
                *arguments, differentiable=True, temperature=temperature, negatives=negatives
            )
        )

    def check_last_call(self) -> None:
        """Reads the check of the last call if no later call has read it, as on a CUDA device.

        Raises:
            ValueError: As :meth:`forward` does with ``validate``.
        """
        self._checks.read()

    def _compute(
        self,
        z0: Tensor | Sequence[Tensor],
        z1: Tensor | Sequence[Tensor] | None,
        ids0: Tensor | None,
        ids1: Tensor | None,
        soft_features0: Tensor | Sequence[Tensor] | None,
        soft_features1: Tensor | Sequence[Tensor] | None,
        *,
        differentiable: bool,
        temperature: float | Tensor | None = None,
        negatives: Tensor | None = None,
    ) -> Parts:
        """The loss and its parts, which need a gradient only if ``differentiable``."""
        z0 = _stack_views(z0, "z0")
        z1 = None if z1 is None else _stack_views(z1, "z1")
        has_ids, bank = ids0 is not None or ids1 is not None, self.memory_bank
        most = _most_instances(z0, z1, ids0, ids1)
        ids0, ids1 = self._ids(z0, z1, ids0, ids1)
        z0, ids0 = flatten_folds(z0, ids0, "z0")
        if z1 is not None:
            z1, ids1 = flatten_folds(z1, ids1, "z1")
        batch = Batch(
            z0,
            z1,
            ids0,
            ids1,
            _as_rows(soft_features0, "soft_features0"),
            _as_rows(soft_features1, "soft_features1"),
            negatives=negatives,
        )
        if bank is not None and not (batch.soft_features0 is None and batch.soft_features1 is None):
            # Said at the first step: the bank is still empty then, and nothing else would object.
            raise ValueError(
                "soft features cannot be used with a memory bank, which keeps none of past "
                "observations: set memory_bank_size=0"
            )
        exchange = None
        if self._gathers:
            needs_all = bank is not None or negatives is not None
            exchange = choose_exchange(self.gather, self.impl, needs_all, z0, z1)
            most = None  # other processes may hold more
            if exchange is None:
                batch = gather_batch(batch)
        if bank is not None:
            batch = self._with_queue(batch, bank, has_ids)
            if most is not None and batch.queue is not None:
                most += len(batch.queue)
        rows = sum(len(x) for x in (batch.ids0, batch.ids1, batch.queue_ids) if x is not None)
        later = reads_later(batch.ids0.device)
        if most is None and exchange is None and later and rows <= _FEW_ROWS:
            most = rows
        if temperature is None:
            temperature = self._current_temperature()
        options = self._options(temperature, most)
        if exchange is None:
            # What a bank takes in must have been looked at: it would stay there for many calls.
            check = self._checks if bank is None else check_values
            parts = hybrid_parts(batch, options, differentiable=differentiable, check=check)
        else:
            parts = sharded_hybrid_parts(batch, options, exchange, differentiable=differentiable)
        if bank is not None and batch.z0.requires_grad:
            if batch.z1 is None or batch.ids1 is None:
                bank.add(batch.z0, batch.ids0, has_ids)
            else:
                bank.add(batch.z1, batch.ids1, has_ids)
        loss = parts.loss.detach()
        self.last = {"scale": scale_of(options, loss.device, loss.dtype)[0].detach()}
        # Not _asdict, which torch.compile of torch 2.7 cannot trace.
        for name, part in zip(Parts._fields, parts, strict=True):
            if part is not None:
                self.last[name] = part.detach()
        return parts

    def _ids(
        self, z0: Tensor, z1: Tensor | None, ids0: Tensor | None, ids1: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Instance ids that hold beyond this process and this batch, where that matters."""
        if z1 is None and ids1 is not None:
            raise ValueError("ids1 is given but z1 is None; ids of z0 are ids0")
        bank = self.memory_bank
        beyond = self._gathers or bank is not None
        if ids0 is None and ids1 is None:
            if z1 is not None:
                check_same_length(z0, z1)
            if beyond:
                ids = torch.arange(len(z0), device=z0.device)
                if self._gathers:
                    ranks = Ranks()
                    ids = ids * ranks.size + ranks.rank
                if bank is not None:
                    ids = ids + bank.next_id().to(ids.device)
                return ids, None if z1 is None else ids
        elif beyond and z1 is not None and (ids0 is None or ids1 is None):
            raise ValueError(
                "with gather_distributed or a memory bank give both ids0 and ids1 or neither: "
                "numbers of one side cannot be compared with ids that you give for the other"
            )
        return ids0, ids1

    def _with_queue(self, batch: Batch, bank: ObservationQueue, has_ids: bool) -> Batch:
        """The batch with the entries of the memory bank as its queue, once there are any."""
        if batch.z0.shape[1] != bank.size[1]:
            raise ValueError(
                f"memory_bank_size is {self.memory_bank_size}, for embeddings of width "
                f"{bank.size[1]}, but z0 has width {batch.z0.shape[1]}"
            )
        bank.check_origin(has_ids)
        rows, ids = bank.entries()
        if len(rows) == 0:
            return batch
        device = batch.z0.device
        return replace(batch, queue=rows.to(device), queue_ids=ids.to(device))

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
            f"hard_weight={self.hard_weight}, soft_scope={self.soft_scope!r}, "
            f"relation_within={self.relation_within}, "
            f"learnable_temperature={self.learnable_temperature}, impl={self.impl!r}, "
            f"gather_distributed={self.gather_distributed}, gather={self.gather!r}, "
            f"memory_bank_size={self.memory_bank_size}"
        )


def _check_before_saving(module: nn.Module, *_: object) -> None:
    assert isinstance(module, MultifoldHybridLoss)
    module.check_last_call()


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
    return max(lengths) if ids0 is ids1 else sum(lengths)
