"""The multifold hybrid loss in Hugging Face's Trainer, with several captions of each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mxmclr_plugin.data.draws import at_least_one, counter_of
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss

__all__ = ["CaptionCollator", "MultifoldHybridTrainerLoss"]


class CaptionCollator:
    """Data collator that draws captions of each image, and puts the ids into ``labels``.

    A row of the data set has an image, a list of captions and an id. Rows of one id are one
    instance. The captions are drawn at random for each batch, none twice; an image with fewer
    gives all it has. Set ``remove_unused_columns=False`` in the training arguments, and
    ``label_names=["labels"]``, without which the trainer reports no loss of an evaluation.

    Args:
        processor: Processor of the model: called with ``images``, ``text``, ``return_tensors`` and
            ``padding``.
        captions: Number of captions drawn for each image.
        image: Column of the image.
        text: Column of the list of captions.
        id: Column of the id, an integer or a string.
        **options: Further options of the processor, such as ``truncation=True``.

    Raises:
        ValueError: If ``captions`` is below 1, and when called if a column is missing or an image
            has no caption.
    """

    def __init__(
        self,
        processor: Callable[..., Mapping[str, Tensor]],
        captions: int,
        *,
        image: str = "image",
        text: str = "captions",
        id: str = "id",
        **options: Any,
    ) -> None:
        self.processor = processor
        self.captions = at_least_one("captions", captions)
        self.image, self.text, self.id = image, text, id
        self.options = {"return_tensors": "pt", "padding": True, **options}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """What the model takes, and as ``labels`` the ids of the images and then of the texts."""
        texts: list[str] = []
        image_ids, text_ids = [], []
        for row in rows:
            missing = [name for name in (self.image, self.text, self.id) if name not in row]
            if missing:
                raise ValueError(
                    f"a row has no {' and no '.join(missing)}, only {', '.join(row)}: name the "
                    "columns image=, text= and id=, and set remove_unused_columns=False in the "
                    "training arguments"
                )
            captions, name = row[self.text], row[self.id]
            if isinstance(captions, str) or not captions:
                raise ValueError(f"{self.text} is a list of captions, got {captions!r:.60}")
            drawn = torch.randperm(len(captions))[: self.captions].tolist()
            texts += [captions[k] for k in drawn]
            image_ids.append(counter_of(name) >> 1 if isinstance(name, str) else int(name))
            text_ids += image_ids[-1:] * len(drawn)
        images = [row[self.image] for row in rows]
        inputs = dict(self.processor(images=images, text=texts, **self.options))
        return {**inputs, "labels": torch.tensor(image_ids + text_ids)}


class MultifoldHybridTrainerLoss:
    """Multifold hybrid loss for ``Trainer(compute_loss_func=...)``.

    For models that return ``image_embeds`` and ``text_embeds`` and have a ``logit_scale``, such as
    ``CLIPModel``, ``SiglipModel`` and ``VisionTextDualEncoderModel``. The temperature is that of
    the model, 1 / exp(``logit_scale``). Under gradient accumulation the loss is averaged over the
    batches of a step, as without a custom loss function.

    Args:
        model: The model that is trained.
        **options: Options of :class:`~mxmclr_plugin.loss.multifold_hybrid.MultifoldHybridLoss`,
            such as ``hard_weight``.

    Raises:
        ValueError: If the model has no ``logit_scale``, or an option is out of range.

    Examples:
        >>> trainer = Trainer(
        ...     model,
        ...     TrainingArguments(remove_unused_columns=False, label_names=["labels"]),
        ...     data_collator=CaptionCollator(processor, captions=5),
        ...     train_dataset=dataset,
        ...     compute_loss_func=MultifoldHybridTrainerLoss(model),
        ... )
    """

    def __init__(self, model: nn.Module, **options: Any) -> None:
        log_scale = getattr(model, "logit_scale", None)
        if not isinstance(log_scale, Tensor):
            raise ValueError(f"{type(model).__name__} has no logit_scale, which is the temperature")
        self.log_scale, self.bias = log_scale, getattr(model, "logit_bias", None)
        self.criterion = MultifoldHybridLoss(**options)

    def __call__(
        self, outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Loss of a batch.

        Args:
            outputs: Outputs of the model.
            labels: Ids of the images and then of the texts, as :class:`CaptionCollator` makes
                them. Shape: (images + texts,).
            num_items_in_batch: Number of labels of all batches of a step. The trainer adds up the
                losses of these batches.

        Returns:
            Shape: ().

        Raises:
            ValueError: If there are no labels, or not one for each image and text.
        """
        images, texts = outputs["image_embeds"], outputs["text_embeds"]
        rows = [len(images), len(texts)]
        if labels is None or labels.shape != (sum(rows),):
            found = "none" if labels is None else f"the shape {tuple(labels.shape)}"
            raise ValueError(
                f"labels are the ids of {rows[0]} images and then of {rows[1]} texts, got {found}: "
                "use CaptionCollator as data_collator"
            )
        image_ids, text_ids = labels.split(rows)
        temperature = torch.exp(-self.log_scale)
        loss: Tensor = self.criterion(images, texts, image_ids, text_ids, temperature=temperature)
        if isinstance(self.bias, Tensor):
            # It cancels, but DistributedDataParallel wants a gradient for every parameter.
            loss = loss + 0 * self.bias.sum()
        if num_items_in_batch is not None:
            loss = loss * (labels.ne(-100).sum() / num_items_in_batch)
        return loss
