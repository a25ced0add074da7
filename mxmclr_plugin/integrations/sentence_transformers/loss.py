"""The multifold hybrid loss for sentence-transformers' trainer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.gradcache import CachedLossMixin, has_static_embedding_input
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.util import batch_to_device
from torch import Tensor

from mxmclr_plugin.integrations.sentence_transformers.columns import (
    Role,
    column_roles,
    observation_columns,
)
from mxmclr_plugin.integrations.sentence_transformers.parts import LossParts
from mxmclr_plugin.integrations.sentence_transformers.trainer import (
    ABSENT,
    ServedLoss,
    mark_absent,
)
from mxmclr_plugin.loss.arguments import (
    HARD_WEIGHT,
    SOFT_TEMPERATURE,
    TEMPERATURE,
    Implementation,
    SoftScope,
)
from mxmclr_plugin.loss.distributed.exchange import Ranks
from mxmclr_plugin.loss.distributed.gather import Gather
from mxmclr_plugin.loss.multifold_hybrid import MAX_SCALE, MultifoldHybridLoss

_OF_ANOTHER_COLUMN = re.compile(r"\d+_")


class MultifoldHybridSentenceLoss(CachedLossMixin, ServedLoss):  # type: ignore[misc]
    """Multifold hybrid loss for ``SentenceTransformerTrainer``.

    A column of the data set, but for the label column, is an observation of each row: a text, or
    an image where the model takes images. Names of columns tell what they hold:

    ===================================  ========================================================
    columns                              what is compared
    ===================================  ========================================================
    any two                              anchor and positive, both ways
    anchor, positive, positive_2, ...    an anchor with several positives, both ways
    anchor, anchor_2, positive, ...      several anchors of an instance
    anchor, positive, negative,          the same; the negatives of all rows are further columns for
    negative_2, ...                      every anchor and nobody's positives
    any, with ``anchor_columns=k``       the first k are of the first modality, the others of the
                                         second: k = 5 for five English and five German captions
    anchors only                         every observation and every other; with a single column
                                         there must be labels
    ===================================  ========================================================

    The first two columns may have other names, such as question and answer. Names that leave open
    what a column holds are an error. In the trainer they are known; in a training loop of your own
    give them as ``columns``. An empty text and None are no observation, in any column; in the
    trainer write "" for a text, since its model card cannot be made with None.

    Row k is instance k, or the label column ("label" or "labels") holds whole numbers, the ids of
    instances. With a single column each batch must hold two rows of some label:
    ``batch_sampler=BatchSamplers.GROUP_BY_LABEL`` sees to it. With labels and the default sampler
    an instance that comes twice in a batch is no false negative.

    With ``mini_batch_size`` the model sees so many rows at a time, as with
    ``CachedMultipleNegativesRankingLoss``: batches may be as large as you like, loss and gradients
    are those of the whole batch, and each step takes one more forward pass.

    A teacher gives the soft relation in place of the embeddings that are trained. ``teacher`` is
    another SentenceTransformer, which encodes the texts of each batch, as the guide of
    sentence-transformers' ``GISTEmbedLoss`` does. Or the label column holds the embedding of each
    row that was computed before, a list of numbers, as for its ``MSELoss``; then row k is instance
    k.

    The trainer logs the weighted parts, ``hard``, ``soft`` and ``within``, and ``loss``, their sum.

    A learnable temperature is trained with the model, and kept in the trainer's checkpoints. Give
    it a separate learning rate, such as ``learning_rate_mapping={"log_scale": 1e-2}`` in the
    training arguments: at that of a language model it would not move.

    This is a reconstruction of the idea of MXM-CLR (https://arxiv.org/abs/2303.10839), not its
    authors' code.

    Args:
        model: The model to be trained.
        temperature: Logits are divided by it. With ``learnable_temperature`` its value at the
            start. sentence-transformers' ``scale=20`` is a temperature of 0.05.
        soft_temperature: Temperature of the relation between instances, in standard deviations;
            infinity treats all other instances alike.
        hard_weight: Weight of the hard part, 0 to 1; the soft part has the rest.
        learnable_temperature: Whether the temperature is learned, as in CLIP.
        anchor_columns: How many columns, from the first on, are of the first modality. The others
            are of the second, or hard negatives if they are named so; if there are none, all
            columns are of one modality. None: names of columns tell.
        gather_across_devices: Whether each process compares with the texts of all processes.
        gather: How it does: ``"rows"``, ``"all_gather"``, ``"ring"`` or ``"auto"``; see
            :class:`~mxmclr_plugin.MultifoldHybridLoss`.
        log_parts: If False the loss is returned as one tensor and its parts are not logged.
        impl: Which implementation computes the loss.
        validate: Whether the values of embeddings are checked; on a CUDA device an error comes with
            the next call.
        soft_scope: ``"others"``, or ``"all"`` for a soft part that compares with the own instance
            too.
        relation_within: Weight of the soft part within each modality, for data sets with columns of
            two modalities.
        teacher: Model whose embeddings give the soft relation. It is not trained. The texts are
            decoded from the tokens of ``model`` for it.
        columns: Names of the columns in their order, such as ``dataset.column_names``. None: those
            of the trainer's data set.
        mini_batch_size: Rows that the model sees at a time. None: all.

    Raises:
        ValueError: If an option is out of range, with a teacher if there is no soft part, its
            temperature is infinite or the tokenizer of ``model`` cannot decode, and with
            ``mini_batch_size`` if the model has static embeddings, which cannot be cut.

    Examples:
        >>> # columns of the data set: anchor, positive, positive_2, negative
        >>> loss = MultifoldHybridSentenceLoss(model)
        >>> trainer = SentenceTransformerTrainer(model, args, train_dataset=dataset, loss=loss)
        >>>
        >>> # columns of the data set: en_0 ... en_4, de_0 ... de_4
        >>> loss = MultifoldHybridSentenceLoss(model, anchor_columns=5)
    """

    def __init__(
        self,
        model: SentenceTransformer,
        temperature: float = TEMPERATURE,
        soft_temperature: float = SOFT_TEMPERATURE,
        hard_weight: float = HARD_WEIGHT,
        learnable_temperature: bool = False,
        anchor_columns: int | None = None,
        gather_across_devices: bool = False,
        log_parts: bool = True,
        impl: Implementation = "auto",
        validate: bool = True,
        gather: Gather = "auto",
        soft_scope: SoftScope = "others",
        relation_within: float = 0.0,
        teacher: SentenceTransformer | None = None,
        columns: Sequence[str] | None = None,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        for name, number in (
            ("anchor_columns", anchor_columns),
            ("mini_batch_size", mini_batch_size),
        ):
            if number is None:
                continue
            if isinstance(number, bool) or not isinstance(number, int):
                raise TypeError(f"{name} must be a whole number, got {number!r}")
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if mini_batch_size is not None and has_static_embedding_input(model):
            raise ValueError(
                "a model with static embeddings takes its texts in one piece: leave out "
                "mini_batch_size"
            )
        # Under this name the trainer finds the model, and trains it: it trains what the loss holds.
        self.model = model
        self.criterion = MultifoldHybridLoss(
            temperature,
            gather_distributed=gather_across_devices,
            soft_temperature=soft_temperature,
            hard_weight=hard_weight,
            soft_scope=soft_scope,
            relation_within=relation_within,
            learnable_temperature=learnable_temperature,
            impl=impl,
            validate=validate,
            gather=gather,
        )
        if mini_batch_size is not None:
            # Beside the model's passes, making the tiles of logits again takes no time.
            self.criterion.cache_bytes = 0
        # Of texts without a known word. A transformer has no such rows, so nobody waits for them.
        self._looks_for_zeros = validate and model.transformers_model is None
        self.anchor_columns = anchor_columns
        self.columns = None if columns is None else observation_columns(columns)
        self.data_columns: list[tuple[str, ...]] = []  # as the trainer's data set names them
        self.mini_batch_size = mini_batch_size  # type: ignore[assignment]
        self.uses_gradient_cache = mini_batch_size is not None
        self.gather_across_devices = gather_across_devices
        self.log_parts = log_parts
        if teacher is not None and not self.criterion.uses_relation:
            raise ValueError(
                "a teacher needs a soft part: set hard_weight below 1 and a finite soft_temperature"
            )
        # Hidden in a tuple, or the trainer would train it, save it and put it in training mode.
        self._teacher = None if teacher is None else (teacher.eval(), _decoder_of(model.tokenizer))
        if learnable_temperature:
            # The trainer's DistributedDataParallel holds the model, but not the loss.
            self.criterion.log_scale.register_hook(_mean_over_ranks)
        mark_absent(model)

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor | LossParts:
        """Loss of a batch.

        Args:
            sentence_features: What the model takes, for each column.
            labels: Instance ids of the rows, integers; None: row k is instance k. Shape: (N,). Or a
                teacher's embeddings of the rows, floats. Shape: (N, any width).

        Returns:
            The weighted parts ``hard``, ``soft`` and ``within``, the sum of which is the loss;
            those of weight 0 are missing. With ``log_parts=False`` the loss, of shape ().

        Raises:
            ValueError: If it is not clear what columns hold, labels are neither instance ids nor
                embeddings, there are two teachers, a batch of one modality holds no instance twice,
                or embeddings cannot be used.
        """
        features = list(sentence_features)
        # The trainer hands a column named "positive" the features of "positive_2" as well. They
        # are removed in place, since AdaptiveLayerLoss reads what the model writes there.
        for column in features:
            for name in [name for name in column if _OF_ANOTHER_COLUMN.match(name)]:
                del column[name]
        roles = self._roles(len(features))
        absent = [column.get(ABSENT) for column in features]
        taught = None if self._teacher is None else [self._taught(column) for column in features]
        if self.uses_gradient_cache:
            return self._forward_cached(features, (labels, taught, absent))
        embeddings: list[Any] = [None] * len(features)
        # Columns of one modality are of like length and go through the model together.
        for anchors in (True, False):
            places = [k for k, role in enumerate(roles) if (role == "anchor") == anchors]
            side = [features[k] for k in places]
            for k, z in zip(
                places, embed_columns(self.model, side, separate_first=False), strict=True
            ):
                embeddings[k] = z
        return self._logged(self._weighted(embeddings, labels, taught, absent))

    def _roles(self, columns: int) -> tuple[Role, ...]:
        if self.columns is not None and len(self.columns) != columns:
            raise ValueError(
                f"columns names {len(self.columns)} columns, {', '.join(self.columns)}, but the "
                f"data set has {columns}"
            )
        named = self.data_columns if self.columns is None else [self.columns]
        return column_roles(columns, named, self.anchor_columns)

    @torch.no_grad()
    def _taught(self, column: dict[str, Any]) -> Tensor:
        """The teacher's embeddings of a text column. Shape: (N, any width)."""
        assert self._teacher is not None
        teacher, decode = self._teacher
        device = column["input_ids"].device
        teacher.to(device)
        texts = decode(_token_rows(column))
        step = self.mini_batch_size or len(texts)
        chunks = [texts[start : start + step] for start in range(0, len(texts), step)]
        return torch.cat(
            [
                teacher(batch_to_device(teacher.preprocess(chunk), device))["sentence_embedding"]
                for chunk in chunks
            ]
        )

    def _forward_cached(
        self, features: list[dict[str, Any]], others: tuple[Any, ...]
    ) -> Tensor | LossParts:
        """Loss whose backward pass embeds the texts again, some at a time."""
        self._learned: Tensor | None = None
        loss: Any = self.forward_cached(features, others)  # type: ignore[arg-type]
        if not torch.is_grad_enabled():
            return self._logged(loss)
        # The backward pass starts from the first part, which has the value of the part alone.
        if "calculate_loss" in vars(self):  # which MatryoshkaLoss replaces
            if self._learned is not None:
                raise ValueError(
                    "MatryoshkaLoss around a loss with mini_batch_size cannot learn a temperature: "
                    "leave out one of the two"
                )
            result: Tensor = loss
            return result
        if self._learned is not None:
            scale = self.criterion.log_scale
            loss = loss + (self._learned * (scale - scale.detach())).sum()
        first, *rest = self._parts
        own = self._parts[first] - loss.detach()
        return self._logged(LossParts({first: loss + own, **{k: self._parts[k] for k in rest}}))

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Any = None, *, with_backward: bool = False
    ) -> Any:
        """Loss of cached embeddings, called by ``CachedLossMixin``.

        Args:
            reps: Embeddings of each column in pieces. Shape: (rows, D) each.
            labels: Labels, a teacher's embeddings and marks of absent rows.
            with_backward: Whether the pieces get their gradients at once.
        """
        parts = self._weighted([torch.cat(column) for column in reps], *labels)
        if not with_backward:
            return parts
        pieces = [piece for column in reps for piece in column]
        leaves = [*pieces, self.criterion.log_scale] if self._learns else pieces
        loss = sum(parts.values())
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)  # type: ignore[arg-type]
        for piece, gradient in zip(pieces, gradients, strict=False):
            piece.grad = torch.zeros_like(piece) if gradient is None else gradient
        self._learned = gradients[-1] if self._learns else None
        self._parts = {name: part.detach() for name, part in parts.items()}
        return loss.detach()  # type: ignore[union-attr]

    @property
    def _learns(self) -> bool:
        return self.criterion.learnable_temperature and self.criterion.log_scale.requires_grad

    def compute_loss_from_embeddings(
        self, embeddings: list[Tensor], labels: Tensor | None = None
    ) -> Tensor:
        """Loss of embeddings, for a loss that is made of several.

        Args:
            embeddings: One tensor for each column. Shape: (N, D) each.
            labels: As in :meth:`forward`.

        Returns:
            Shape: ().
        """
        return self._total(self._weighted(embeddings, labels, None, None))

    def _logged(self, parts: LossParts) -> Tensor | LossParts:
        return parts if self.log_parts else self._total(parts)

    @staticmethod
    def _total(parts: LossParts) -> Tensor:
        return torch.stack(list(parts.values())).sum()

    def _weighted(
        self,
        embeddings: list[Tensor],
        labels: Tensor | None,
        taught: list[Tensor] | None,
        absent: Sequence[Tensor | None] | None,
    ) -> LossParts:
        """The weighted parts of the loss."""
        roles = self._roles(len(embeddings))
        if labels is not None and labels.is_floating_point() and labels.ndim == 2:
            if labels.shape[1] <= len(embeddings):
                raise ValueError(
                    f"the label column holds {labels.shape[1]} numbers for each row of "
                    f"{len(embeddings)} columns, which are scores rather than a teacher's "
                    "embeddings; leave the labels out for this loss"
                )
            if taught is not None:
                raise ValueError(
                    "the label column holds a teacher's embeddings, but the loss has a teacher too"
                )
            taught, labels = [labels] * len(embeddings), None
        if labels is None and roles.count("anchor") == len(embeddings) == 1:
            raise ValueError(
                "a data set with one column of observations needs a column 'label' with the "
                "instance of each row; without one, give several columns"
            )
        ids = self._instance_ids(labels, embeddings[0])

        def observed(role: Role) -> tuple[Tensor, Tensor, Tensor | None] | None:
            """Rows, ids and a teacher's features of the observations there are."""
            places = [k for k, found in enumerate(roles) if found == role]
            if not places:
                return None
            # Row by row, as it is fastest: (N, columns, D) and (N * columns, D).
            z = torch.stack([embeddings[k] for k in places], dim=1).flatten(0, 1)
            features = None
            if taught is not None:
                features = torch.stack([taught[k] for k in places], dim=1).flatten(0, 1)
            ids_of_rows = ids.repeat_interleave(len(places))
            keep = self._usable(z, [None if absent is None else absent[k] for k in places])
            if keep is not None:
                z, ids_of_rows = z[keep], ids_of_rows[keep]
                features = None if features is None else features[keep]
            return z, ids_of_rows, features

        anchors, positives = observed("anchor"), observed("positive")
        negatives = observed("negative")
        assert anchors is not None
        z0, ids0, features0 = anchors
        z1, ids1, features1 = positives or (None, None, None)
        if len(z0) < len(embeddings[0]) * roles.count("anchor") or (
            z1 is not None and len(z1) < len(embeddings[0]) * roles.count("positive")
        ):
            # Of what is left there may be nothing to compare, which is no reason to stop.
            pairs = ids0.unique() if ids1 is None else ids0[torch.isin(ids0, ids1)]
            enough = len(pairs) < len(ids0) if ids1 is None else len(pairs) > 0
            if not (enough or self.gather_across_devices):
                zero = 0 * torch.cat(embeddings).sum()
                if self._learns:  # as on other processes, which wait for the gradient of this one
                    zero = zero + 0 * self.criterion.log_scale.sum()
                return LossParts(dict.fromkeys(self._weights, zero))
        return self._weigh(
            (z0, z1, ids0, ids1, features0, features1), None if negatives is None else negatives[0]
        )

    def _usable(self, z: Tensor, absent: list[Tensor | None]) -> Tensor | None:
        """Which rows have an observation and a direction; None for all. Shape: (rows,), bool."""
        keep = None
        if self._looks_for_zeros:
            keep = (z.detach() != 0).any(dim=1)
        if any(mark is not None for mark in absent):
            none = z.new_zeros(len(z) // len(absent), dtype=torch.bool)
            marks = [none if mark is None else mark.to(z.device) for mark in absent]
            present = ~torch.stack(marks, dim=1).flatten()
            keep = present if keep is None else keep & present
        return None if keep is None or bool(keep.all()) else keep

    @property
    def _weights(self) -> dict[str, float]:
        """Weights of the parts, but for those of weight 0."""
        hard_weight = self.criterion.hard_weight
        weights = {
            "hard": hard_weight,
            "soft": 1 - hard_weight,
            "within": self.criterion.relation_within,
        }
        return {name: weight for name, weight in weights.items() if weight}

    def _weigh(self, arguments: Any, negatives: Tensor | None) -> LossParts:
        weights = self._weights
        if len(weights) == 1:
            return LossParts(
                dict.fromkeys(weights, self.criterion(*arguments, negatives=negatives))
            )
        parts = self.criterion.parts(*arguments, negatives=negatives)
        return LossParts({name: weight * getattr(parts, name) for name, weight in weights.items()})

    def _instance_ids(self, labels: Tensor | None, rows: Tensor) -> Tensor:
        """Shape: (N,)."""
        if labels is None:
            ids = torch.arange(len(rows), device=rows.device)
            ranks = Ranks()
            return ids * ranks.size + ranks.rank if self.gather_across_devices else ids
        if labels.is_floating_point() or labels.is_complex() or labels.shape != rows.shape[:1]:
            raise ValueError(
                "the label column must hold one whole number for each row, the id of its instance, "
                "or a list of numbers, its embedding by a teacher; got labels of dtype "
                f"{labels.dtype} and shape {tuple(labels.shape)} for {len(rows)} rows; leave out a "
                "column of scores, which this loss does not use"
            )
        return labels.long()

    @property
    def temperature(self) -> float:
        """The temperature in use now."""
        if not self.criterion.learnable_temperature:
            return self.criterion.temperature
        return max(float(torch.exp(-self.criterion.log_scale.detach())), 1 / MAX_SCALE)

    def get_config_dict(self) -> dict[str, Any]:
        """Options, for the model card."""
        return {
            "temperature": self.criterion.temperature,
            "soft_temperature": self.criterion.soft_temperature,
            "hard_weight": self.criterion.hard_weight,
            "soft_scope": self.criterion.soft_scope,
            "relation_within": self.criterion.relation_within,
            "learnable_temperature": self.criterion.learnable_temperature,
            "anchor_columns": self.anchor_columns,
            "columns": self.columns,
            "mini_batch_size": self.mini_batch_size,
            "gather_across_devices": self.gather_across_devices,
            "gather": self.criterion.gather,
            "teacher": None if self._teacher is None else self._teacher[0],
        }

    @property
    def citation(self) -> str:
        """BibTeX of the paper whose idea this is, for the model card."""
        return """
@misc{wang2023mxmclr,
    title={MXM-CLR: A Unified Framework for Contrastive Learning of Multifold Cross-Modal Representations},
    author={Ye Wang and Bowei Jiang and Changqing Zou and Rui Ma},
    year={2023},
    eprint={2303.10839},
    archivePrefix={arXiv},
    primaryClass={cs.CV},
    url={https://arxiv.org/abs/2303.10839},
    note={the loss used here is a reconstruction of its idea}
}
"""  # noqa: E501


def _decoder_of(tokenizer: Any) -> Callable[[list[list[int]]], list[str]]:
    """What turns rows of tokens into texts."""
    for name in ("batch_decode", "decode_batch"):  # of transformers, of tokenizers
        if hasattr(tokenizer, name):
            return partial(getattr(tokenizer, name), skip_special_tokens=True)
    raise ValueError(
        f"a {type(tokenizer).__name__} cannot decode the texts for a teacher: give its embeddings "
        "in the label column"
    )


def _token_rows(column: dict[str, Any]) -> list[list[int]]:
    """Tokens of each text, from what the model takes."""
    tokens: Tensor = column["input_ids"]
    if "offsets" in column:  # of static embeddings: one text after the other
        return [row.tolist() for row in tokens.tensor_split(column["offsets"][1:].cpu())]
    if "cu_seq_lens_q" in column:  # of Flash Attention
        return [row.tolist() for row in tokens[0].tensor_split(column["cu_seq_lens_q"][1:-1].cpu())]
    rows: list[list[int]] = tokens.tolist()
    return rows


def _mean_over_ranks(gradient: Tensor) -> Tensor:
    ranks = Ranks()
    return ranks.all_reduce(gradient.clone(), "gradients") / ranks.size
