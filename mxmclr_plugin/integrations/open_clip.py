"""The multifold hybrid loss in open_clip's training loop, with several captions of each image."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from lightly.utils import dist
from open_clip import CLIP, CustomTextCLIP
from torch import Tensor, nn

from mxmclr_plugin.data.draws import at_least_one, counter_of
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss

__all__ = [
    "CaptionTokenizer",
    "MultifoldHybridClipLoss",
    "accept_caption_sets",
    "caption_lines",
    "create_loss",
    "train",
]


class MultifoldHybridClipLoss(nn.Module):
    """Multifold hybrid loss in place of open_clip's ``ClipLoss``.

    Takes the outputs of the model as ``ClipLoss`` does, with temperature 1 / ``logit_scale``. With
    one caption of each image and ``hard_weight=1`` it is ``ClipLoss``. With several processes its
    value is that of all rows on every process, and parameters get the gradient of one process that
    had all rows, as with ``ClipLoss(gather_with_grad=True)``.

    Args:
        local_loss: If True each process computes its rows of the loss against gathered columns;
            else the cheaper way is chosen by size. The value is the same.
        gather_with_grad: Rows of other processes always carry their gradient, so False is refused
            with several processes.
        cache_labels: Not used: there are no labels to be cached.
        rank: Rank of this process.
        world_size: Number of processes.
        use_horovod: Refused if True.
        **options: Options of :class:`~mxmclr_plugin.loss.multifold_hybrid.MultifoldHybridLoss`,
            such as ``hard_weight``.

    Raises:
        ValueError: If an option is refused or out of range.

    Examples:
        >>> loss = MultifoldHybridClipLoss()
        >>> model = accept_caption_sets(open_clip.create_model("ViT-B-32"))
        >>> losses = loss(**model(images, texts), output_dict=True)
        >>> task = open_clip.CLIPTask(model, loss=loss)  # from open_clip 4
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = True,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if use_horovod:
            raise ValueError("Horovod is not supported: use torch.distributed")
        if world_size > 1 and not gather_with_grad:
            raise ValueError(
                "rows of other processes always carry their gradient in this loss: pass "
                "--gather-with-grad (gather_with_grad=True)"
            )
        taken = {"temperature", "learnable_temperature", "gather_distributed", "gather"} & {
            *options
        }
        if taken:
            raise ValueError(
                f"{', '.join(sorted(taken))}: the model's logit_scale gives the temperature, and "
                "world_size and local_loss how rows are gathered"
            )
        self.rank, self.world_size = rank, world_size
        # Programs read these of a ClipLoss.
        self.local_loss, self.gather_with_grad = local_loss, gather_with_grad
        self.cache_labels = cache_labels
        self.criterion = MultifoldHybridLoss(
            gather_distributed=world_size > 1,
            gather="all_gather" if local_loss and world_size > 1 else "auto",
            **options,
        )

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        output_dict: bool = False,
        ids: Tensor | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """Loss of a batch.

        Args:
            image_features: Embeddings of the images. Shape: (N, D).
            text_features: Embeddings of the captions. Shape: (N, D) or (N, captions, D).
            logit_scale: 1 / temperature. Shape: () or (1,).
            logit_bias: Bias of all logits. Cancels in a softmax; its gradient is 0.
            output_dict: Whether to return a dict, as open_clip's training loop wants it.
            ids: Instance of each image, integers: images of one id count as one instance, also
                those of different processes. None: every image is an instance. Shape: (N,).

        Returns:
            The loss, of shape (), or ``{"contrastive_loss": loss}``.

        Raises:
            ValueError: If the process group is not the one of ``rank`` and ``world_size``, or
                embeddings cannot be used.
        """
        if (self.rank, self.world_size) != (dist.rank(), dist.world_size()) and self.world_size > 1:
            raise ValueError(
                f"the loss is of rank {self.rank} of {self.world_size}, but the process group has "
                f"rank {dist.rank()} of {dist.world_size()}"
            )
        loss: Tensor = self.criterion(
            image_features, text_features, ids, ids, temperature=1 / logit_scale
        )
        if logit_bias is not None:
            # DistributedDataParallel wants a gradient for every parameter.
            loss = loss + 0 * logit_bias.sum()
        return {"contrastive_loss": loss} if output_dict else loss


def create_loss(args: Namespace, **options: Any) -> MultifoldHybridClipLoss:
    """The loss for the arguments of open_clip's training script, as ``open_clip.create_loss``.

    Args:
        args: Parsed arguments of the script.
        **options: Options of :class:`~mxmclr_plugin.loss.multifold_hybrid.MultifoldHybridLoss`.

    Raises:
        ValueError: If the arguments name another loss, or as for the class.
    """
    other = {
        "--distill-model": args.distill,
        "--siglip": args.siglip,
        f"--model {args.model}": "coca" in args.model.lower(),
    }
    for option, named in other.items():
        if named:
            raise ValueError(f"{option} has a loss of its own, which this loss cannot replace")
    return MultifoldHybridClipLoss(
        local_loss=args.local_loss,
        gather_with_grad=args.gather_with_grad,
        rank=args.rank,
        world_size=args.world_size,
        use_horovod=getattr(args, "horovod", False),
        **options,
    )


def caption_lines(text: str) -> tuple[str, list[str]]:
    """Read a text with a caption on each line; the text is the id of the image.

    For data in which each image is in one sample; samples with the same text are one instance.

    Returns:
        The text as the id of the image, and its captions.

    Raises:
        ValueError: If there is no caption.
    """
    if not text.strip():
        raise ValueError(f"an image has no caption, its text is {text!r}")
    return text, [line.strip() for line in text.splitlines() if line.strip()]


class CaptionTokenizer:
    """Draws captions of an image from its text and tokenizes them, with the id of the image.

    For the place of the tokenizer in open_clip's data pipeline, which gives it the ``txt`` of a
    sample, or the caption column of a CSV file. Each time some of the captions are drawn at
    random, none twice while there are others. An image with fewer repeats them.

    Args:
        tokenizer: Tokenizer of the model.
        captions: Number of captions drawn for each image.
        read: Function from the text of an image to its id, an integer or a string, and its
            captions. With images in several samples give the id, for example as
            ``lambda text: (json.loads(text)["image_id"], json.loads(text)["captions"])``.

    Raises:
        ValueError: If ``captions`` is below 1.
    """

    def __init__(
        self,
        tokenizer: Callable[..., Tensor],
        captions: int,
        read: Callable[[str], tuple[int | str, Sequence[str]]] = caption_lines,
    ) -> None:
        self.tokenizer = tokenizer
        self.captions = at_least_one("captions", captions)
        self.read = read

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Tokens of drawn captions, behind which is the id of the image.

        Args:
            texts: The text of an image, or of several.

        Returns:
            Shape: (images, captions, context length + 1), int64.
        """
        return torch.stack(
            [self._of_image(t) for t in ([texts] if isinstance(texts, str) else texts)]
        )

    def _of_image(self, text: str) -> Tensor:
        """Shape: (captions, context length + 1)."""
        name, captions = self.read(text)
        order = torch.randperm(len(captions)).tolist()
        drawn = [captions[order[k % len(order)]] for k in range(self.captions)]
        tokens = self.tokenizer(drawn).long()
        number = counter_of(name) >> 1 if isinstance(name, str) else int(name)
        return torch.cat([tokens, tokens.new_full((len(tokens), 1), number)], dim=1)


def accept_caption_sets(model: nn.Module) -> nn.Module:
    """Make a model of open_clip take the texts of a :class:`CaptionTokenizer`, in place.

    Of texts of shape (N, captions, context length + 1) it returns ``text_features`` of shape
    (N, captions, D) and the ``ids`` of the images, (N,). Other texts are encoded as before.
    Parameters and checkpoints stay as they are. From now on the model returns dicts.

    Args:
        model: A ``CLIP`` or ``CustomTextCLIP``, before it is compiled or distributed.

    Returns:
        The model.

    Raises:
        TypeError: If it is another model, such as CoCa, whose decoder reads one caption.
    """
    if not isinstance(model, CLIP | CustomTextCLIP):
        kind = type(model).__name__
        raise TypeError(f"several captions of an image need a CLIP or CustomTextCLIP, got {kind}")
    model.output_dict = True
    # Unlike hooks or a bound method, a class is right in copies, such as that of an EMA, too.
    accepting: nn.Module = model
    accepting.__class__ = _with_caption_sets(type(model))
    return accepting


class _CaptionSets(nn.Module):
    """Forward pass for several captions of an image, before that of a model of open_clip."""

    def forward(self, image: Any = None, text: Tensor | None = None) -> dict[str, Tensor]:
        if text is None or text.ndim == 2:
            return super().forward(image, text)  # type: ignore[no-any-return, misc]
        tokens, ids = text[:, :, :-1], text[:, 0, -1]
        output: dict[str, Tensor] = super().forward(image, tokens.flatten(0, 1))  # type: ignore[misc]
        features = output["text_features"].unflatten(0, text.shape[:2])
        return {**output, "text_features": features, "ids": ids}


def _with_caption_sets(model_class: type) -> type:
    if issubclass(model_class, _CaptionSets):
        return model_class
    return type(model_class.__name__, (_CaptionSets, model_class), {})


def train(
    args: Sequence[str],
    *,
    captions: int,
    read: Callable[[str], tuple[int | str, Sequence[str]]] = caption_lines,
    **options: Any,
) -> Any:
    """Run open_clip's training script with this loss and several captions of each image.

    Calls ``open_clip_train.main.main``, in which the loss, the model and the texts of the training
    data are replaced as :func:`create_loss`, :func:`accept_caption_sets` and
    :class:`CaptionTokenizer` do it. Evaluation takes the first caption of an image. Needs
    ``open_clip_torch[training]``.

    Args:
        args: Arguments of the script, such as ``["--train-data", "shards/{000..099}.tar", ...]``.
        captions: Number of captions drawn for each image. A batch has ``--batch-size`` images.
        read: As for :class:`CaptionTokenizer`.
        **options: Options of :class:`~mxmclr_plugin.loss.multifold_hybrid.MultifoldHybridLoss`.

    Returns:
        What the script returns.

    Raises:
        ValueError: If an option is refused or out of range.
    """
    from open_clip_train import main as script

    originals = dict(vars(script))

    def create_model_and_transforms(*arguments: Any, **keywords: Any) -> Any:
        model, *transforms = originals["create_model_and_transforms"](*arguments, **keywords)
        return accept_caption_sets(model), *transforms

    def get_data(
        arguments: Namespace, *others: Any, tokenizer: Callable[..., Tensor], **keywords: Any
    ) -> dict[str, Any]:
        held_out = dict.fromkeys(("val_data", "imagenet_val", "imagenet_v2"))
        no_training: dict[str, Any] = {"train_data": None}
        if arguments.dataset_type == "synthetic":  # which has no validation data
            no_training["dataset_type"] = "auto"
        parts = {
            CaptionTokenizer(tokenizer, captions, read): held_out,
            _FirstCaption(tokenizer, read): no_training,
        }
        data: dict[str, Any] = {}
        for texts, left_out in parts.items():
            part = Namespace(**{**vars(arguments), **left_out})
            data |= originals["get_data"](part, *others, tokenizer=texts, **keywords)
        return data

    def create_task(arguments: Namespace, *others: Any, **keywords: Any) -> nn.Module:
        task: nn.Module = originals["create_task"](arguments, *others, **keywords)
        task.loss = create_loss(arguments, **options)
        return task

    replacements = {
        "create_model_and_transforms": create_model_and_transforms,
        "get_data": get_data,
        "create_loss": partial(create_loss, **options),  # before open_clip 4
        "create_task": create_task,  # from open_clip 4
    }
    replacements = {name: new for name, new in replacements.items() if name in originals}
    vars(script).update(replacements)
    try:
        return script.main(list(args))
    finally:
        vars(script).update({name: originals[name] for name in replacements})


class _FirstCaption:
    """Tokenizes the first caption of an image."""

    def __init__(
        self,
        tokenizer: Callable[..., Tensor],
        read: Callable[[str], tuple[int | str, Sequence[str]]],
    ) -> None:
        self.tokenizer, self.read = tokenizer, read

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Shape: (images, context length)."""
        every = [texts] if isinstance(texts, str) else texts
        return self.tokenizer([self.read(text)[1][0] for text in every])
