"""The multifold hybrid loss as a loss of pytorch-metric-learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.reducers import DoNothingReducer, MeanReducer, MultipleReducers
from pytorch_metric_learning.utils import common_functions as c_f
from torch import Tensor

from mxmclr_plugin.integrations.pytorch_metric_learning.pairs import Pairs, all_pairs, picked_pairs
from mxmclr_plugin.loss.arguments import (
    HARD_WEIGHT,
    SOFT_TEMPERATURE,
    TEMPERATURE,
    Implementation,
    Options,
    SoftScope,
)
from mxmclr_plugin.loss.implementation import choose_implementation
from mxmclr_plugin.loss.instances import Comparison, Instances
from mxmclr_plugin.loss.kernels.parts import streaming_parts
from mxmclr_plugin.loss.kernels.tiles import TILED
from mxmclr_plugin.loss.kernels.triton.tiles import TRITON
from mxmclr_plugin.loss.reference import RowLosses, hard_losses, soft_losses, within_losses
from mxmclr_plugin.loss.relation import Relation, exponents
from mxmclr_plugin.loss.validation import check_options

InstancesFrom = Literal["pairs", "labels"]


class MultifoldHybridLoss(BaseMetricLossFunction):  # type: ignore[misc]
    r"""Multifold hybrid loss with the distances, reducers and miners of pytorch-metric-learning.

    A label is an instance, an embedding one observation of it. For an anchor u with logits
    :math:`S_{uv}` (similarity, or minus the distance, over ``temperature``) and the references v
    that it is compared with,

    .. math:: \mathrm{logsumexp}_v S_{uv} - \sum_v H_{uv} S_{uv} \quad\text{and}\quad
              \mathrm{logsumexp}_v S_{uv} - \sum_v T_{uv} S_{uv}

    are its hard and its soft loss, the soft loss among the references of *other* instances alone. H
    is uniform over the references of the same instance. :math:`T_{uv} = R_{ij} / c_{uj}` where i
    and j are the instances of u and v, :math:`c_{uj}` the number of references of j that u is
    compared with, and :math:`R_{ij}` the softmax of :math:`G_{ij}/(\tau_{soft}\,\sigma_i)` over
    the other instances with :math:`c_{uj} > 0`. :math:`G_{ij}` is the cosine of the fused features
    of both (the normalised mean of an instance's unit embeddings), without gradient, the mean over
    the modalities in which both were observed, and :math:`\sigma_i` its standard deviation over
    all other instances; a pair of instances that shares no modality has weight 0. ``soft_scope``
    and the other options are those of :func:`mxmclr_plugin.multifold_hybrid_loss`.

    What u is compared with:

    - **cross-modal** (``ref_emb`` is given and is not ``embeddings``): every row of ``ref_emb``,
      even if both label tensors are one and the same. With ``symmetric`` the loss is the mean of
      both directions, each reduced with its own anchors and their labels.
    - **uni-modal** (``embeddings`` alone): every other row. u itself is neither among the
      positives nor in the logsumexp, so with ``soft_scope="all"`` :math:`c_{ui}` is the fold of its
      own instance less one, and where that is 0 its own instance is left out of :math:`R_{ij}`.
      Fused features are made of all rows, u among them. (Both values are those of
      :func:`mxmclr_plugin.multifold_hybrid_loss`, a batch of one instance excepted, see below.)
    - with ``indices_tuple``: what the tuple says and nothing else. H is uniform over the positive
      pairs of u, and :math:`c_{uj}` counts those of its pairs, positive or negative, that lead
      to j. A tuple names its anchors, so there is no reverse direction, whatever ``symmetric``
      says; for that call the loss again with what the miner finds for the other side. Labels
      make no difference, as in the pair losses of that library: rows that positive pairs join,
      directly or through other rows, are one instance (for G and c), and a row in no positive pair
      is an instance by itself. A miner may leave out pairs that labels would join; with
      ``instances_from="labels"`` the labels tell the instances.

    Rows without a positive have no hard loss, rows related to nothing no soft loss: neither NaN nor
    zero, they are not handed to the reducer. A batch without a positive pair has a hard loss of
    zero, one without a negative pair a loss of zero, as in ``SupConLoss``; the zero is tied to
    ``embeddings`` and ``ref_emb``, so that both towers have gradients.

    Sub losses are ``hard`` and ``soft``, and ``within`` if ``relation_within`` is not 0, so
    ``MultipleReducers({"hard": ..., "soft": ...})`` sets a reducer for each. They are losses of
    rows ("element"), already multiplied by ``hard_weight``, 1 - ``hard_weight`` and
    ``relation_within``. The default reducer is the mean. ``DoNothingReducer`` gives a dict; that of
    a symmetric loss holds the reverse direction under ``reverse_hard`` and so on, and all entries
    are halved, so that their means add up to the loss.

    Losses are computed in float32 at least, also under autocast; the result has the dtype of
    ``embeddings`` as in the library's own losses, or float32 under autocast.

    This is a reconstruction of the idea of MXM-CLR (https://arxiv.org/abs/2303.10839), not its
    authors' code.

    Args:
        temperature: Logits are divided by it.
        soft_temperature: tau_soft, the temperature of the relation between instances, in standard
            deviations; infinity for the same share of all others.
        hard_weight: Weight of the hard part, 0 to 1; the soft part has the rest. A part of weight 0
            is not computed.
        soft_scope: ``"others"``, or ``"all"`` to compare with the own instance too.
        relation_within: Weight of the soft loss of the anchors against the anchors of other
            instances. For cross-modal calls without ``indices_tuple``.
        instances_from: What tells which rows are one instance in calls with ``indices_tuple``:
            ``"pairs"`` or ``"labels"``. The hard part does not depend on it.
        symmetric: Whether a cross-modal loss without ``indices_tuple`` is the mean of both
            directions. Otherwise ``embeddings`` are the only anchors. An ``embedding_regularizer``
            sees the anchors of each direction.
        impl: Which implementation computes the loss, as in
            :func:`mxmclr_plugin.multifold_hybrid_loss`. Only ``"dense"`` knows pairs and the losses
            of single rows, so ``"auto"`` takes it for a call with ``indices_tuple``, another
            distance than cosine similarity, another reducer than the mean, a regulariser, or
            ``collect_stats``.
        **kwargs: ``distance`` (default ``CosineSimilarity()``), ``reducer``,
            ``embedding_regularizer``, ``embedding_reg_weight`` and ``collect_stats``, as in every
            loss of that library.

    Attributes:
        hard_loss:
            With ``collect_stats`` the hard part of the last call, unweighted, for record keepers.
        soft_loss:
            The same of the soft part.

    Raises:
        ValueError: If an option is out of range.

    Examples:
        >>> loss_func = MultifoldHybridLoss(temperature=0.07)
        >>>
        >>> # uni-modal: 8 instances, 4 views each
        >>> embeddings, labels = torch.randn(32, 64), torch.arange(32) // 4
        >>> loss = loss_func(embeddings, labels)
        >>>
        >>> # cross-modal
        >>> captions, caption_labels = torch.randn(40, 64), torch.arange(40) // 5
        >>> loss = loss_func(embeddings, labels, ref_emb=captions, ref_labels=caption_labels)
    """

    def __init__(
        self,
        temperature: float = TEMPERATURE,
        soft_temperature: float = SOFT_TEMPERATURE,
        hard_weight: float = HARD_WEIGHT,
        symmetric: bool = True,
        instances_from: InstancesFrom = "pairs",
        impl: Implementation = "auto",
        soft_scope: SoftScope = "others",
        relation_within: float = 0.0,
        **kwargs: Any,
    ) -> None:
        options = Options(
            temperature, soft_temperature, hard_weight, soft_scope, relation_within, impl=impl
        )
        check_options(options)
        if instances_from not in ("pairs", "labels"):
            raise ValueError(f"instances_from must be 'pairs' or 'labels', got {instances_from!r}")
        self.relation_within = relation_within  # the library reads the names of sub losses at once
        super().__init__(**kwargs)
        self.temperature = temperature
        self.soft_scope: SoftScope = soft_scope
        self.soft_temperature = soft_temperature
        self.hard_weight = hard_weight
        self.symmetric = symmetric
        self.instances_from: InstancesFrom = instances_from
        self.impl: Implementation = impl
        self.add_to_recordable_attributes(
            list_of_names=["temperature", "soft_temperature", "hard_weight", "relation_within"],
            is_stat=False,
        )
        self.add_to_recordable_attributes(
            list_of_names=[f"{name}_loss" for name in self._sub_loss_names()], is_stat=True
        )

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: Sequence[Tensor] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Any:
        """Loss of a batch.

        Args:
            embeddings: Anchors. Shape: (n_0, D).
            labels: Instance of each row. May be left out if ``indices_tuple`` is given.
                Shape: (n_0,).
            indices_tuple: Triplets (anchors, positives, negatives) or pairs (anchors, positives,
                anchors, negatives) of row numbers, from a miner for example.
            ref_emb: References, the observations in another modality for example. None, or
                ``embeddings`` itself, is a uni-modal loss. Shape: (n_1, D).
            ref_labels: Instance of each reference. Shape: (n_1,).

        Returns:
            What the reducer makes of it: a loss of shape (), or with ``DoNothingReducer`` a dict.

        Raises:
            ValueError: If shapes do not fit together, if labels are missing, or if
                ``indices_tuple`` contradicts itself or is not to be had with ``relation_within``.
        """
        self.reset_stats()
        uni_modal = ref_emb is None or ref_emb is embeddings
        if self.relation_within and (uni_modal or indices_tuple is not None):
            raise ValueError(
                "relation_within needs embeddings and ref_emb of two modalities, without "
                "indices_tuple"
            )
        _check_rows("embeddings", embeddings, "labels", labels)
        if ref_emb is not None and not uni_modal:
            _check_rows("ref_emb", ref_emb, "ref_labels", ref_labels)
            if ref_emb.shape[1] != embeddings.shape[1]:
                raise ValueError(
                    "embeddings and ref_emb must have the same number of columns, got shapes "
                    f"{tuple(embeddings.shape)} and {tuple(ref_emb.shape)}"
                )
        elif ref_labels is not None and ref_emb is None:
            raise ValueError("ref_labels are given without ref_emb")
        elif ref_labels is not None and labels is not None and not torch.equal(labels, ref_labels):
            raise ValueError("ref_emb is embeddings itself, but ref_labels differ from labels")
        device = embeddings.device.type
        with torch.autocast(device_type=device, enabled=False):
            dtype = torch.promote_types(embeddings.dtype, torch.float32)
            if ref_emb is not None:
                dtype = torch.promote_types(dtype, ref_emb.dtype)
            anchors = (embeddings.to(dtype), _on_device(labels, embeddings))
            if ref_emb is None or uni_modal:
                references = anchors
            else:
                references = (ref_emb.to(dtype), _on_device(ref_labels, embeddings))
            directions = [(*anchors, indices_tuple, *references)]
            if self.symmetric and not uni_modal and indices_tuple is None:
                directions.append((*references, None, *anchors))
            impl = self._implementation(*directions[0])
            if impl == "dense":
                results = [self._direction(*direction, len(directions)) for direction in directions]
            else:
                sub_losses = self._streamed(
                    anchors, references, both_directions=len(directions) == 2, impl=impl
                )
                results = [self.reducer(sub_losses, *anchors)]
        if isinstance(self.reducer, DoNothingReducer):
            return _merged(results)
        loss = sum(results) / len(results)
        # The reducers' zero is tied to the anchors alone.
        loss = loss + torch.sum(references[0] * 0)
        return loss if torch.is_autocast_enabled(device) else loss.to(embeddings.dtype)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: Sequence[Tensor] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> dict[str, dict[str, Any]]:
        """Sub losses of one direction, for the reducer; arguments as in :meth:`forward`."""
        loss_dict: dict[str, dict[str, Any]] = self.zero_losses()
        pairs = self._pairs(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        if not pairs.contrast:
            return loss_dict
        logits = self._logits(embeddings, ref_emb)
        if self.hard_weight > 0:
            hard = hard_losses(logits, pairs.positive, pairs.kept)
            loss_dict["hard"] = _element(hard, self.hard_weight)
        if self.hard_weight == 1 and not self.relation_within:
            return loss_dict
        options, instances = self._options(), pairs.instances
        index0, index1 = instances.index0, instances.index1
        with torch.no_grad():
            rows = None if ref_emb is embeddings else embeddings, ref_emb
            relation = exponents(
                Relation.of_rows(rows, (index0, index1), instances.folds, logits.dtype), options
            )
        if self.hard_weight < 1:
            # Rows of each instance that each anchor is compared with: (n_0, instances).
            counts = logits.new_zeros(len(logits), instances.groups)
            counts.index_add_(1, index1, pairs.kept.to(logits.dtype))
            others = index0[:, None] != index1[None, :]
            soft = soft_losses(
                logits,
                relation[index0][:, index1],
                counts[:, index1].clamp(min=1),
                pairs.kept & others if options.others else pairs.kept,
            )
            loss_dict["soft"] = _element(soft, 1 - self.hard_weight)
        if self.relation_within:
            logits = self._logits(embeddings, embeddings)
            within = within_losses(logits, relation, index0, instances.folds[:, 0])
            loss_dict["within"] = _element(within, self.relation_within)
        return loss_dict

    def get_default_distance(self) -> CosineSimilarity:
        """Cosine similarity, as the formula has it."""
        return CosineSimilarity()

    def _sub_loss_names(self) -> list[str]:
        return ["hard", "soft", "within"] if self.relation_within else ["hard", "soft"]

    def _options(self) -> Options:
        return Options(
            self.temperature,
            self.soft_temperature,
            self.hard_weight,
            self.soft_scope,
            self.relation_within,
        )

    def _implementation(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: Sequence[Tensor] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> Implementation:
        """The implementation of a call."""
        needs = "indices_tuple" if indices_tuple is not None else self._needs_rows()
        if needs is not None:
            if self.impl not in ("auto", "dense"):
                raise ValueError(
                    f"impl={self.impl!r} knows no pairs and no losses of single rows, which "
                    f"{needs} asks for; use impl='auto'"
                )
            return "dense"
        # Without labels it is for the dense one to say what is wrong.
        if labels is None or ref_labels is None or self.impl == "dense":
            return "dense"
        return choose_implementation(self.impl, embeddings, ref_emb)

    def _needs_rows(self) -> str | None:
        """The setting that asks for the losses of single rows; None if means of cosines will do."""
        distance, reducer = self.distance, self.reducer
        reducers = reducer.reducers.values() if isinstance(reducer, MultipleReducers) else [reducer]
        other = [type(one).__name__ for one in reducers if type(one) is not MeanReducer]
        if type(distance) is not CosineSimilarity or (distance.p, distance.power) != (2, 1):
            return f"the distance {type(distance).__name__}"
        if other:
            return f"the reducer {other[0]}"
        if self.embedding_regularizer is not None:
            return "an embedding_regularizer"
        return "collect_stats" if self.collect_stats else None

    def _streamed(
        self,
        anchors: tuple[Tensor, Tensor | None],
        references: tuple[Tensor, Tensor | None],
        *,
        both_directions: bool,
        impl: Implementation,
    ) -> dict[str, dict[str, Any]]:
        """Sub losses that are reduced to their means already, tile by tile."""
        (embeddings, labels), (ref_emb, ref_labels) = anchors, references
        assert labels is not None
        assert ref_labels is not None
        uni_modal = ref_emb is embeddings
        weight = self.hard_weight
        several = 0 < weight < 1 or self.relation_within > 0
        loss, hard, soft, within = streaming_parts(
            Comparison(
                embeddings,
                ref_emb,
                Instances.from_ids(labels, ref_labels),
                both_directions=both_directions,
                skip_self=uni_modal,
            ),
            self._options(),
            TRITON if impl == "triton" else TILED,
            differentiable=several,
        )
        # Without a negative pair there is no loss; to read whether there is one is to wait.
        contrast = _several_instances(labels, ref_labels).to(loss.dtype)
        sub_losses: dict[str, dict[str, Any]] = self.zero_losses()
        if not several:
            sub_losses["hard" if weight == 1 else "soft"]["losses"] = contrast * loss
            return sub_losses
        for name, share, part in (
            ("hard", weight, hard),
            ("soft", 1 - weight, soft),
            ("within", self.relation_within, within),
        ):
            if part is not None and share > 0:
                sub_losses[name]["losses"] = share * contrast * part
        return sub_losses

    def _pairs(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: Sequence[Tensor] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> Pairs:
        uni_modal = ref_emb is embeddings
        both = None if labels is None or ref_labels is None else (labels, ref_labels)
        missing = "labels" if uni_modal else "labels and ref_labels"
        if indices_tuple is None:
            if both is None:
                raise ValueError(f"{missing} and indices_tuple cannot both be None")
            return all_pairs(*both, uni_modal=uni_modal)
        if both is None and self.instances_from == "labels":
            raise ValueError(f"instances_from='labels' needs {missing} beside indices_tuple")
        return picked_pairs(
            indices_tuple,
            (len(embeddings), len(ref_emb)),
            embeddings.device,
            uni_modal=uni_modal,
            labels=both if self.instances_from == "labels" else None,
        )

    def _logits(self, embeddings: Tensor, ref_emb: Tensor) -> Tensor:
        similarity: Tensor = self.distance(embeddings, ref_emb)
        return (similarity if self.distance.is_inverted else -similarity) / self.temperature

    def _direction(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: Sequence[Tensor] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
        directions: int,
    ) -> Any:
        """What the reducer makes of one direction out of one or two."""
        loss_dict = self.compute_loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        if self.collect_stats:
            weights = self.hard_weight, 1 - self.hard_weight, self.relation_within
            for name, weight in zip(self._sub_loss_names(), weights, strict=False):
                losses = loss_dict[name]["losses"]
                if isinstance(losses, Tensor):
                    mean = losses.detach().mean().item() / weight / directions
                    setattr(self, f"{name}_loss", getattr(self, f"{name}_loss") + mean)
        self.add_embedding_regularization_to_loss_dict(loss_dict, embeddings)
        return self.reducer(loss_dict, embeddings, labels)


def _element(row_losses: RowLosses, weight: float) -> dict[str, Any]:
    rows = row_losses.counted.nonzero()[:, 0]
    losses = row_losses.losses[rows]
    if len(losses) == 0:
        return {"losses": 0, "indices": None, "reduction_type": "already_reduced"}
    return {
        "losses": weight * losses,
        "indices": rows,
        "reduction_type": "element",
        "divisor": len(losses),
    }


def _merged(results: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """One dict of the sub losses of all directions, each over the number of directions."""
    return {
        prefix + name: {**loss, "losses": loss["losses"] / len(results)}
        for prefix, result in zip(("", "reverse_"), results, strict=False)
        for name, loss in result.items()
    }


def _several_instances(labels: Tensor, ref_labels: Tensor) -> Tensor:
    """Whether rows are of several instances, so that there is a negative pair. Shape: ()."""
    first = labels[:1]
    return (labels != first).any() | (ref_labels != first).any()


def _on_device(labels: Tensor | None, embeddings: Tensor) -> Tensor | None:
    return None if labels is None else c_f.to_device(labels, embeddings)


def _check_rows(name: str, rows: Tensor, labels_name: str, labels: Tensor | None) -> None:
    if rows.ndim != 2:
        raise ValueError(f"{name} must be of shape (rows, D), got shape {tuple(rows.shape)}")
    if not rows.is_floating_point():
        raise ValueError(f"{name} must be of a floating point dtype, got {rows.dtype}")
    if labels is not None and labels.shape != rows.shape[:1]:
        raise ValueError(
            f"{labels_name} must hold one label for each of the {len(rows)} rows of {name}, got "
            f"shape {tuple(labels.shape)}"
        )
