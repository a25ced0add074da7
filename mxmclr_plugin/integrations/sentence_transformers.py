"""The multifold hybrid loss for sentence-transformers' trainer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

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

__all__ = ["MultifoldHybridSentenceLoss", "TemperatureCallback"]


class MultifoldHybridSentenceLoss(nn.Module):
    """Multifold hybrid loss for ``SentenceTransformerTrainer``.

    Text columns are observations: with five English and five German captions of a photo in ten
    columns and ``anchor_columns=5``, each row is an instance with folds 5 and 5. Every caption of
    the other language is a positive, and other photos are ordered by how alike their captions are;
    see :func:`mxmclr_plugin.multifold_hybrid_loss`.

    ============================  ===============================  ==============================
    text columns                  label column                     what is compared
    ============================  ===============================  ==============================
    k anchors, then others        none: row k is instance k        anchors and others, both ways
    k anchors, then others        instance ids: rows of the same   anchors and others, both ways
                                  id are of one instance
    k anchors only                as above; needed if k is 1       every text and every other text
    ============================  ===============================  ==============================

    The label column is called as sentence-transformers wants it ("label" or "labels") and holds
    whole numbers. With one text column each batch must hold two rows of some label:
    ``batch_sampler=BatchSamplers.GROUP_BY_LABEL`` sees to it. With labels and the default sampler
    an instance that comes twice in a batch is no false negative.

    A teacher gives the soft relation in place of the embeddings that are trained. ``teacher`` is
    another SentenceTransformer, which encodes the texts of each batch, as the guide of
    sentence-transformers' ``GISTEmbedLoss`` does. Or the label column holds the embedding of each
    row that was computed before, a list of numbers, as for its ``MSELoss``; then row k is instance
    k.

    The trainer logs the weighted parts, ``hard``, ``soft`` and ``within``, and ``loss``, their sum.

    A learnable temperature is trained with the model. Give it a separate learning rate, such as
    ``learning_rate_mapping={"log_scale": 1e-2}`` in the training arguments: at that of a language
    model it would not move. As the trainer saves no parameters of losses, add
    ``callbacks=[TemperatureCallback(loss)]``.

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
        anchor_columns: How many text columns, from the first on, are of the first modality. The
            others are of the second; if there are none, all columns are of one modality.
        gather_across_devices: Whether each process compares with the texts of all processes.
        gather: How it does: ``"rows"``, ``"all_gather"``, ``"ring"`` or ``"auto"``; see
            :class:`~mxmclr_plugin.MultifoldHybridLoss`.
        log_parts: If False the loss is returned as one tensor and its parts are not logged. Losses
            that wrap another, such as ``MatryoshkaLoss``, need that.
        impl: Which implementation computes the loss.
        validate: Whether the values of embeddings are checked, which synchronizes with the device
            once a step.
        soft_scope: ``"others"``, or ``"all"`` for a soft part that compares with the own instance
            too.
        relation_within: Weight of the soft part within each modality, for data sets with columns of
            two modalities.
        teacher: Model whose embeddings give the soft relation. It is not trained. The texts are
            decoded from the tokens of ``model`` for it.

    Raises:
        ValueError: If an option is out of range, or with a teacher if there is no soft part or the
            tokenizer of ``model`` cannot decode.

    Examples:
        >>> # columns of the data set: en_0 ... en_4, de_0 ... de_4
        >>> loss = MultifoldHybridSentenceLoss(model, anchor_columns=5)
        >>> trainer = SentenceTransformerTrainer(model, args, train_dataset=dataset, loss=loss)
    """

    def __init__(
        self,
        model: SentenceTransformer,
        temperature: float = TEMPERATURE,
        soft_temperature: float = SOFT_TEMPERATURE,
        hard_weight: float = HARD_WEIGHT,
        learnable_temperature: bool = False,
        anchor_columns: int = 1,
        gather_across_devices: bool = False,
        log_parts: bool = True,
        impl: Implementation = "auto",
        validate: bool = True,
        gather: Gather = "auto",
        soft_scope: SoftScope = "others",
        relation_within: float = 0.0,
        teacher: SentenceTransformer | None = None,
    ) -> None:
        super().__init__()
        if isinstance(anchor_columns, bool) or not isinstance(anchor_columns, int):
            raise TypeError(f"anchor_columns must be a whole number, got {anchor_columns!r}")
        if anchor_columns < 1:
            raise ValueError(f"anchor_columns must be at least 1, got {anchor_columns}")
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
        self.anchor_columns = anchor_columns
        self.gather_across_devices = gather_across_devices
        self.log_parts = log_parts
        # Hidden in a tuple, or the trainer would train it, save it and put it in training mode.
        self._teacher = None if teacher is None else (teacher.eval(), _decoder_of(model.tokenizer))
        if teacher is not None and hard_weight == 1 and not relation_within:
            raise ValueError("a teacher needs a soft part: set hard_weight below 1")
        self._temperature_is_kept = not learnable_temperature
        if learnable_temperature:
            # The trainer's DistributedDataParallel holds the model, but not the loss.
            self.criterion.log_scale.register_hook(_mean_over_ranks)

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor | dict[str, Tensor]:
        """Loss of a batch.

        Args:
            sentence_features: What the model takes, for each text column.
            labels: Instance ids of the rows, integers; None: row k is instance k. Shape: (N,). Or a
                teacher's embeddings of the rows, floats. Shape: (N, any width).

        Returns:
            The weighted parts ``hard``, ``soft`` and ``within``, the sum of which is the loss;
            those of weight 0 are missing. With ``log_parts=False`` the loss, of shape ().

        Raises:
            ValueError: If there are fewer text columns than ``anchor_columns``, labels are neither
                instance ids nor embeddings, there are two teachers, a batch of one modality holds
                no instance twice, or embeddings cannot be used.
        """
        if self.training and not self._temperature_is_kept:
            self._temperature_is_kept = True
            warnings.warn(
                "sentence-transformers' trainer saves no parameters of losses, so its checkpoints "
                "will lack the learned temperature: give it callbacks=[TemperatureCallback(loss)]; "
                "a training loop of your own should save loss.criterion.state_dict()",
                stacklevel=2,
            )
        features = list(sentence_features)
        # Columns of one modality are of like length and go through the model together.
        embeddings = [
            embedding
            for columns in (features[: self.anchor_columns], features[self.anchor_columns :])
            if columns
            for embedding in embed_columns(self.model, columns, separate_first=False)
        ]
        taught = None if self._teacher is None else [self._taught(column) for column in features]
        return self.compute_loss_from_embeddings(embeddings, labels, taught)

    @torch.no_grad()
    def _taught(self, column: dict[str, Any]) -> Tensor:
        """The teacher's embeddings of a text column. Shape: (N, any width)."""
        assert self._teacher is not None
        teacher, decode = self._teacher
        device = column["input_ids"].device
        teacher.to(device)
        inputs = batch_to_device(teacher.preprocess(decode(_token_rows(column))), device)
        embeddings: Tensor = teacher(inputs)["sentence_embedding"]
        return embeddings

    def compute_loss_from_embeddings(
        self,
        embeddings: list[Tensor],
        labels: Tensor | None = None,
        taught: list[Tensor] | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """Loss of embeddings, as :meth:`forward`.

        Args:
            embeddings: One tensor for each text column. Shape: (N, D) each.
            labels: As in :meth:`forward`.
            taught: The teacher's, in the same form. Shape: (N, any width) each.
        """
        if labels is not None and labels.is_floating_point() and labels.ndim == 2:
            if taught is not None:
                raise ValueError(
                    "the label column holds a teacher's embeddings, but the loss has a teacher too"
                )
            taught, labels = [labels] * len(embeddings), None
        anchors, others = embeddings[: self.anchor_columns], embeddings[self.anchor_columns :]
        if len(anchors) < self.anchor_columns:
            raise ValueError(
                f"anchor_columns is {self.anchor_columns}, but the data set has only "
                f"{len(embeddings)} text column{'' if len(embeddings) == 1 else 's'}"
            )
        if labels is None and len(embeddings) == 1:
            raise ValueError(
                "a data set with one text column needs a column 'label' with the instance of each "
                "text; without one, give several text columns"
            )
        ids = _instance_ids(labels, len(anchors[0]))
        arguments = (
            *(anchors, others or None, ids, ids if others else None),
            None if taught is None else taught[: self.anchor_columns],
            None if taught is None or not others else taught[self.anchor_columns :],
        )
        weight, weight_within = self.criterion.hard_weight, self.criterion.relation_within
        if self.log_parts and (0 < weight < 1 or weight_within):
            parts = self.criterion.parts(*arguments)
            weighted = {"hard": weight * parts.hard, "soft": (1 - weight) * parts.soft}
            if parts.within is not None:
                weighted["within"] = weight_within * parts.within
            return weighted
        loss: Tensor = self.criterion(*arguments)
        if not self.log_parts:
            return loss
        return {"hard" if weight == 1 else "soft": loss}

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


class TemperatureCallback(TrainerCallback):
    """Keeps learned temperatures in the trainer's checkpoints.

    They are written to each checkpoint's ``trainer_state.json``, and read from there when training
    is resumed and when the best model is loaded at the end.

    Args:
        *losses: All losses of the trainer that learn a temperature, in the same order whenever
            training is resumed.

    Raises:
        ValueError: If a loss learns no temperature.

    Examples:
        >>> loss = MultifoldHybridSentenceLoss(model, learnable_temperature=True)
        >>> trainer = SentenceTransformerTrainer(
        ...     model, args, dataset, loss=loss, callbacks=[TemperatureCallback(loss)]
        ... )
        >>> trainer.train(resume_from_checkpoint=True)
    """

    key = "MultifoldHybridSentenceLoss"
    """Name of the entry under ``stateful_callbacks`` in ``trainer_state.json``."""

    def __init__(self, *losses: MultifoldHybridSentenceLoss) -> None:
        if not losses or not all(loss.criterion.learnable_temperature for loss in losses):
            raise ValueError("give the losses that were built with learnable_temperature=True")
        self.losses = losses

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """Reads the temperatures of the checkpoint from which training is resumed."""
        for loss in self.losses:
            loss._temperature_is_kept = True
        if state.global_step > 0:
            self._read(state, "the checkpoint from which training is resumed")

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """Puts the temperatures where the next checkpoint takes them along."""
        log_scales = [float(loss.criterion.log_scale.detach()) for loss in self.losses]
        _entries(state)[self.key] = {"args": {}, "attributes": {"log_scales": log_scales}}

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """Reads the temperatures that belong to the best model, if that has been loaded."""
        best = state.best_model_checkpoint
        if args.load_best_model_at_end and best is not None:
            saved = TrainerState.load_from_json(str(Path(best) / "trainer_state.json"))
            self._read(saved, f"the best checkpoint, {best},")

    def _read(self, state: TrainerState, where: str) -> None:
        log_scales = _entries(state).get(self.key, {}).get("attributes", {}).get("log_scales", [])
        if len(log_scales) != len(self.losses):
            raise ValueError(
                f"{where} holds {len(log_scales)} learned temperatures, but there are "
                f"{len(self.losses)} losses that learn one; it was saved without this callback, "
                "or with other losses"
            )
        for loss, log_scale in zip(self.losses, log_scales, strict=True):
            with torch.no_grad():
                loss.criterion.log_scale.fill_(log_scale)


def _entries(state: TrainerState) -> dict[str, Any]:
    # Declared as a list, which it is only while the trainer makes a state.
    entries: Any = state.stateful_callbacks
    result: dict[str, Any] = entries
    return result


def _instance_ids(labels: Tensor | None, rows: int) -> Tensor | None:
    if labels is None:
        return None
    if labels.is_floating_point() or labels.is_complex() or labels.shape != (rows,):
        raise ValueError(
            "the label column must hold one whole number for each row, the id of its instance, or "
            "a list of numbers, its embedding by a teacher; "
            f"got labels of dtype {labels.dtype} and shape {tuple(labels.shape)} for {rows} rows"
        )
    return labels.long()


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
