"""Options of a training run; their names, types and defaults are the configuration's."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["BatchConfig", "EvalConfig", "OptimizerConfig", "TrainerConfig", "precision_of"]


@dataclass
class BatchConfig:
    """What a training batch holds.

    Attributes:
        instances: Instances a batch (on each process).
        folds: Observations drawn of each instance, by modality.
        repeats: How many times an epoch goes through the instances.
        pad_folds: Whether a fold smaller than asked is filled up by repetition.
        multifold_for_all_losses: Whether losses that accept one positive per row get these folds
            as well, instead of one observation of each modality.
        workers: Processes that read data; 0 reads in the main process.
    """

    instances: int = 128
    folds: dict[str, int] = field(default_factory=dict)
    repeats: int = 1
    pad_folds: bool = False
    multifold_for_all_losses: bool = False
    workers: int = 0


@dataclass
class OptimizerConfig:
    """AdamW with a linear warm-up and a cosine decay.

    Attributes:
        lr: Peak learning rate.
        weight_decay: Decay of all weights except biases and those of normalisation layers.
        warmup: Share of all steps spent warming up, 0 to 1.
        clip: Largest norm of the gradient; null for no bound.
    """

    lr: float = 2e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float | None = None


@dataclass
class TrainerConfig:
    """How Lightning trains.

    Attributes:
        max_steps: Optimizer steps.
        accelerator: As Lightning's: auto, cpu, gpu, ...
        devices: As Lightning's: auto or a number.
        strategy: As Lightning's: auto, ddp, ...
        num_nodes: Machines.
        precision: auto (bf16-mixed on a GPU that has it, 16-mixed on one that has not, else 32),
            or Lightning's: 32, bf16-mixed, 16-mixed, ...
        validate_every: Epochs between validations.
        patience: Stop after that many validations without a better mean recall; null never stops
            early.
        test_with: Weights that are tested: best (by validation) or last.
        eval_batch: Observations encoded at once in evaluation.
        log_every: Steps between entries of the log.
        loggers: Where curves are written: csv (always), tensorboard, wandb.
        deterministic: Ask torch for deterministic algorithms.
    """

    max_steps: int = 400
    accelerator: str = "auto"
    devices: str = "auto"
    strategy: str = "auto"
    num_nodes: int = 1
    precision: str = "auto"
    validate_every: int = 1
    patience: int | None = None
    test_with: str = "best"
    eval_batch: int = 256
    log_every: int = 10
    loggers: list[str] = field(default_factory=lambda: ["csv"])
    deterministic: bool = False


@dataclass
class EvalConfig:
    """What is measured.

    Attributes:
        split: Split that is measured at the end beside ``test``: train, val, or test for no more.
        test: Whether ``test`` is measured; false leaves it unseen, as while options are chosen.
        ks: Depths of r@k.
        ndcg_at: Depth of ndcg@k.
        fuse: Modalities whose observations of an instance are fused to one item (the normalized
            mean of their unit vectors) before ranking.
        rsum: Whether RSUM is given, the sum of r@k over all depths and directions.
        group_size: Measures also groups of so many instances of a split, and gives the means over
            them: 1000 for COCO's 5 x 1K. Null for none.
    """

    split: str = "test"
    test: bool = True
    ks: list[int] = field(default_factory=lambda: [1, 5])
    ndcg_at: int = 5
    fuse: list[str] = field(default_factory=list)
    rsum: bool = False
    group_size: int | None = None


def precision_of(config: TrainerConfig) -> str:
    """The precision in Lightning's words, also where the configuration says ``auto``."""
    if config.precision != "auto":
        return config.precision
    import torch  # what reads configurations does not need it

    if config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    return "32"
