"""Options of a run; their names, types, defaults and help are those of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, MinLen

from mxmclr_plugin.bounds import Count, OneOf, Positive, Seed, Share
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.retrieval.direction import Direction

LOGGERS = ("csv", "tensorboard", "wandb")

PRECISIONS = ("32", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64")
"""Of Lightning's precisions those that train here; it has other names for some of them."""

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true", "fsdp2")
"""Lightning's strategies that train here, and FSDP2, which is its ModelParallelStrategy."""

_SAME_PRECISION = {"32-true": "32", "64-true": "64", "16": "16-mixed", "bf16": "bf16-mixed"}


@dataclass
class BatchConfig:
    """Contents of a training batch.

    Attributes:
        instances: Instances per batch (on each process), 2 or more; null chooses from the data if
            automatic.
        folds: Observations drawn of each instance, by modality.
        repeats: How many times an epoch goes through the instances; null chooses from the data if
            automatic.
        pad_folds: Whether a fold that is too small is filled up by repetition.
        multifold_for_all_losses: Whether losses that accept one positive per row get these folds
            as well, instead of one observation of each modality.
        workers: Processes that read data; 0 reads in the main process.
    """

    instances: Annotated[int, Ge(2), Le(2**31 - 1)] | None = 128
    folds: dict[str, Count] = field(default_factory=dict)
    repeats: Count | None = 1
    pad_folds: bool = False
    multifold_for_all_losses: bool = False
    workers: Annotated[int, Ge(0), Le(1024)] = 0


@dataclass
class OptimizerConfig:
    """AdamW with a linear warm-up and a cosine decay.

    Attributes:
        lr: Peak learning rate.
        weight_decay: Decay of all weights except biases and those of normalisation layers.
        warmup: Share of all steps spent warming up, 0 to 1.
        clip: Largest norm of the gradient; null for no bound.
    """

    lr: Annotated[float, Ge(0)] = 2e-3
    weight_decay: Annotated[float, Ge(0)] = 0.01
    warmup: Share = 0.1
    clip: Positive | None = None


@dataclass
class TrainerConfig:
    """Options of Lightning's trainer.

    Attributes:
        max_steps: Optimizer steps; null chooses from the data if automatic.
        accelerator: As in Lightning.
        devices: As in Lightning: auto or a number.
        strategy: auto, ddp, ddp_find_unused_parameters_true (for towers of which a part gets no
            gradient), or fsdp2 (each process keeps a share of weights and optimizer states).
        num_nodes: Machines.
        precision: auto (bf16-mixed on a GPU that supports it, 16-mixed on another GPU, else 32),
            or as in Lightning.
        validate_every: Epochs between validations.
        checkpoint_every_steps: Steps between checkpoints to resume from, beside those after each
            validation; null for no others.
        checkpoint_every_minutes: Minutes between such checkpoints; null for no others.
        timeout_minutes: Minutes that a process waits for the others in a step or an evaluation
            before it ends the run.
        patience: Stop after that many validations without a better mean recall; null never stops
            early.
        test_with: Weights that are tested: best (by validation) or last; null chooses from the data
            if automatic.
        skip_nonfinite: Steps with a loss, gradient or embeddings that are not finite which are left
            out of training before it stops.
        eval_batch: Observations encoded at once in evaluation.
        cache_chunk: Observations encoded at once in training, for batches beyond memory: the
            backward pass encodes each chunk again (GradCache). Null encodes the batch at once.
        log_every: Steps between entries of the log.
        loggers: Where curves are written: csv (always), tensorboard, wandb.
        deterministic: Whether torch uses deterministic algorithms.
        profile: Whether to measure how long the GPU is idle, in 20 steps.
    """

    max_steps: Count | None = 400
    accelerator: Annotated[str, OneOf(("auto", "cpu", "gpu", "cuda", "mps"))] = "auto"
    devices: str = "auto"
    strategy: Annotated[str, OneOf(STRATEGIES)] = "auto"
    num_nodes: Count = 1
    precision: Annotated[str, OneOf(("auto", *PRECISIONS, *_SAME_PRECISION))] = "auto"
    validate_every: Count = 1
    checkpoint_every_steps: Count | None = None
    checkpoint_every_minutes: Positive | None = 10.0
    timeout_minutes: Annotated[float, Gt(0), Le(1e6)] = 10.0
    patience: Count | None = None
    test_with: Annotated[str, OneOf(("best", "last"))] | None = "best"
    skip_nonfinite: Annotated[int, Ge(0)] = 0
    eval_batch: Count = 256
    cache_chunk: Count | None = None
    log_every: Count = 10
    loggers: list[Annotated[str, OneOf(LOGGERS)]] = field(default_factory=lambda: ["csv"])
    deterministic: bool = False
    profile: bool = False


@dataclass
class EvalConfig:
    """Metrics and splits of the evaluation.

    Attributes:
        split: Split that is measured at the end beside ``test``: train, val, or test for no more.
        test: Whether ``test`` is measured; false keeps it unused while options are chosen.
        ks: Depths of r@k.
        ndcg_at: Depth of ndcg@k.
        fuse: Modalities whose observations of an instance are fused to one item (the normalized
            mean of their unit vectors) before ranking.
        rsum: Whether RSUM is reported, the sum of r@k over all depths and directions.
        group_size: Reports also the mean over groups of this many instances of a split: 1000 for
            COCO's 5 x 1K. Null for none.
        held_out_captions: Captions of each instance, by modality, that are not ranked: their words
            are the relevance of ``graded_ndcg@10``. Of one modality.
    """

    split: str = "test"
    test: bool = True
    ks: Annotated[list[Count], MinLen(1)] = field(default_factory=lambda: [1, 5])
    ndcg_at: Count = 5
    fuse: list[str] = field(default_factory=list)
    rsum: bool = False
    group_size: Count | None = None
    held_out_captions: dict[str, Count] = field(default_factory=dict)

    @property
    def recall(self) -> str:
        """Name of the recall whose mean over the directions chooses the weights: ``r@1``."""
        return f"r@{self.ks[0]}"


@dataclass
class RunConfig:
    """Configuration of a run.

    Attributes:
        task: Name of the task, that of its file in ``plugin_configs``.
        summary: One line about the task.
        directions: Query and gallery of each measured direction: a modality, or a list of several
            that are fused.
        loss: Name and options of the loss, or the import path of a class.
        data: Name and options of the data set.
        train_instances: Number of training instances, drawn at random (the same for every
            ``seed``); null for all.
        towers: Name and options of the tower of each modality, or ``same_as`` and the modality
            with which it shares one.
        teacher: Frozen encoder that gives the soft relation, by modality: ``tower`` for the
            backbone of that modality's frozen tower, or the name of a tower of its own, or
            ``{name: ..., shuffle: false}`` with options of its backbone. ``shuffle: true`` gives
            each instance the features of another one, drawn with ``seed``, as a control. Relations
            of several teachers are averaged. ``teacher=none`` takes the relation of the embeddings
            that are trained.
        batch: Contents of a training batch.
        optimizer: Options of the optimizer.
        trainer: Options of the trainer.
        eval: Metrics and splits of the evaluation.
        seed: Seed of weights and draws.
        out: Folder of the run; null makes runs/TASK/LOSS-seedSEED.
        ckpt: null starts a new run, ``last`` continues the run in ``out``, a path continues from
            that checkpoint. The run keeps its configuration; keys beside it are changes.
        overrides: Changes to the task's defaults, as on the command line.
        automatic: Whether missing towers and directions, empty folds, and instances, repeats and
            max_steps that are null are chosen from the data.
    """

    task: str
    summary: str = ""
    directions: dict[str, Direction] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    train_instances: Count | None = None
    towers: dict[str, dict[str, Any]] = field(default_factory=dict)
    teacher: dict[str, dict[str, Any]] = field(default_factory=dict)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    seed: Seed = 0
    out: Annotated[str, MinLen(1)] | None = None
    ckpt: Annotated[str, MinLen(1)] | None = None
    overrides: list[str] = field(default_factory=list)
    automatic: bool = False

    @property
    def loss_name(self) -> str:
        """Name of the loss; for an import path its last part."""
        path = self.loss.get("name") or self.loss.get("_target_") or self.loss.get("class_path")
        return str(path).rsplit(".", maxsplit=1)[-1]


def precision_of(config: TrainerConfig) -> str:
    """Lightning's name of the precision, with ``auto`` resolved.

    Raises:
        ConfigError: If it is bfloat16 and the GPU has none.
    """
    import torch  # not needed to read a configuration

    on_gpu = config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    # PyTorch emulates bfloat16 on older cards, slowly and not in all operations.
    emulated = on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False)
    if config.precision == "auto":
        return ("16-mixed" if emulated else "bf16-mixed") if on_gpu else "32"
    precision = _SAME_PRECISION.get(config.precision, config.precision)
    if emulated and precision.startswith("bf16"):
        raise ConfigError(
            f"trainer.precision={config.precision}: {torch.cuda.get_device_name()} has no "
            "bfloat16; take trainer.precision=16-mixed or 32"
        )
    return precision
