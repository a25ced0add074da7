"""The losses that have a name, ours and those it is compared with."""

from __future__ import annotations

from collections.abc import Sequence

from mxmclr_plugin.loss.arguments import Implementation
from mxmclr_plugin.loss.baselines.clip import ClipCriterion
from mxmclr_plugin.loss.baselines.labels import LabelCriterion
from mxmclr_plugin.loss.baselines.pairing import PairedCriterion
from mxmclr_plugin.loss.baselines.sigmoid import SigmoidCriterion
from mxmclr_plugin.loss.baselines.simple_clip import SoftTargetCriterion
from mxmclr_plugin.loss.distributed.gather import Gather
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.loss.registry import LOSSES, LossInfo

__all__: list[str] = []


def _hard(
    temperature: float = 0.07,
    learnable_temperature: bool = False,
    impl: Implementation = "auto",
    validate: bool = True,
    gather_distributed: bool = False,
    memory_bank_size: int | Sequence[int] = 0,
    gather: Gather = "auto",
) -> MultifoldHybridLoss:
    return MultifoldHybridLoss(
        temperature,
        memory_bank_size,
        gather_distributed,
        hard_weight=1.0,
        learnable_temperature=learnable_temperature,
        impl=impl,
        validate=validate,
        gather=gather,
    )


def _soft(
    temperature: float = 0.07,
    soft_temperature: float = 0.05,
    learnable_temperature: bool = False,
    impl: Implementation = "auto",
    validate: bool = True,
    gather_distributed: bool = False,
    memory_bank_size: int | Sequence[int] = 0,
    gather: Gather = "auto",
) -> MultifoldHybridLoss:
    return MultifoldHybridLoss(
        temperature,
        memory_bank_size,
        gather_distributed,
        soft_temperature=soft_temperature,
        hard_weight=0.0,
        learnable_temperature=learnable_temperature,
        impl=impl,
        validate=validate,
        gather=gather,
    )


def _ntxent(temperature: float = 0.5, gather_distributed: bool = False) -> PairedCriterion:
    from lightly.loss import NTXentLoss  # takes seconds to import, as do those below

    return PairedCriterion(NTXentLoss(temperature, gather_distributed=gather_distributed))


def _dcl(temperature: float = 0.1, gather_distributed: bool = False) -> PairedCriterion:
    from lightly.loss import DCLLoss

    return PairedCriterion(DCLLoss(temperature, gather_distributed=gather_distributed))


def _clip(temperature: float = 0.07) -> ClipCriterion:
    return ClipCriterion(temperature)


def _tricolo_ntxent(temperature: float = 0.1, forward_weight: float = 0.25) -> ClipCriterion:
    return ClipCriterion(temperature, forward_weight)


def _siglip(temperature: float = 0.1, bias: float = -10.0) -> SigmoidCriterion:
    return SigmoidCriterion(temperature, bias)


def _siglip_multi(temperature: float = 0.1, bias: float = -10.0) -> SigmoidCriterion:
    return SigmoidCriterion(temperature, bias, multi_positive=True)


def _simple_clip(temperature: float = 0.07, soft_temperature: float = 0.07) -> PairedCriterion:
    return PairedCriterion(SoftTargetCriterion(temperature, soft_temperature))


def _mnrl(temperature: float = 0.05, symmetric: bool = False) -> PairedCriterion:
    # sentence-transformers takes seconds to import, which other losses need not wait for.
    from mxmclr_plugin.loss.baselines.ranking import RankingCriterion

    return PairedCriterion(RankingCriterion(temperature, symmetric))


def _pml_ntxent(temperature: float = 0.07, symmetric: bool = False) -> LabelCriterion:
    from pytorch_metric_learning import losses

    return LabelCriterion(losses.NTXentLoss(temperature), symmetric)


def _supcon(temperature: float = 0.1, symmetric: bool = True) -> LabelCriterion:
    from pytorch_metric_learning import losses

    return LabelCriterion(losses.SupConLoss(temperature), symmetric)


def _multi_similarity(
    alpha: float = 2.0, beta: float = 50.0, base: float = 0.5, symmetric: bool = True
) -> LabelCriterion:
    from pytorch_metric_learning import losses

    return LabelCriterion(losses.MultiSimilarityLoss(alpha, beta, base), symmetric)


def _triplet(margin: float = 0.2, symmetric: bool = True) -> LabelCriterion:
    from pytorch_metric_learning import losses

    return LabelCriterion(losses.TripletMarginLoss(margin), symmetric)


_OURS = "mxmclr_plugin"
_LIGHTLY = "lightly"
_METRIC_LEARNING = "pytorch-metric-learning"
_MXM_CLR = "reconstruction of MXM-CLR, https://arxiv.org/abs/2303.10839"

for _info in (
    LossInfo(
        "mxmclr",
        MultifoldHybridLoss,
        "hybrid of the hard (same instance) and soft (similar instance) relation",
        _OURS,
        _MXM_CLR,
        "many",
    ),
    LossInfo(
        "mxmclr_hard",
        _hard,
        "every observation of the same instance is a positive",
        _OURS,
        _MXM_CLR,
        "many",
    ),
    LossInfo(
        "mxmclr_soft",
        _soft,
        "other instances are positives in proportion to their similarity",
        _OURS,
        _MXM_CLR,
        "many",
    ),
    LossInfo(
        "ntxent",
        _ntxent,
        "lightly's NT-Xent",
        _LIGHTLY,
        "SimCLR, https://arxiv.org/abs/2002.05709",
        "one",
        "both",
    ),
    LossInfo(
        "dcl",
        _dcl,
        "decoupled: the positive is not in the denominator",
        _LIGHTLY,
        "DCL, https://arxiv.org/abs/2110.06848",
        "one",
        "both",
    ),
    LossInfo(
        "clip",
        _clip,
        "symmetric cross-entropy between modalities",
        _OURS,
        "CLIP, https://arxiv.org/abs/2103.00020",
        "one",
    ),
    LossInfo(
        "tricolo_ntxent",
        _tricolo_ntxent,
        "CLIP's with weights 0.25 and 0.75 of its directions",
        _OURS,
        "TriCoLo, https://arxiv.org/abs/2201.07366",
        "one",
    ),
    LossInfo(
        "simple_clip",
        _simple_clip,
        "soft targets from the similarities within both modalities",
        _OURS,
        "https://github.com/moein-shariatnia/OpenAI-CLIP",
        "one",
    ),
    LossInfo(
        "siglip",
        _siglip,
        "sigmoid for every pair, scale and bias learned",
        _OURS,
        "SigLIP, https://arxiv.org/abs/2303.15343",
        "one",
    ),
    LossInfo(
        "siglip_multi",
        _siglip_multi,
        "the same with every observation of the same instance a positive",
        _OURS,
        "SigLIP, https://arxiv.org/abs/2303.15343",
        "many",
    ),
    LossInfo(
        "mnrl",
        _mnrl,
        "multiple negatives ranking, first to second modality unless symmetric",
        "sentence-transformers",
        "https://arxiv.org/abs/1705.00652",
        "one",
    ),
    LossInfo(
        "pml_ntxent",
        _pml_ntxent,
        "NT-Xent for each positive pair, first to second modality unless symmetric",
        _METRIC_LEARNING,
        "CPC, https://arxiv.org/abs/1807.03748",
        "many",
    ),
    LossInfo(
        "supcon",
        _supcon,
        "supervised contrastive, both directions",
        _METRIC_LEARNING,
        "SupCon, https://arxiv.org/abs/2004.11362",
        "many",
    ),
    LossInfo(
        "multi_similarity",
        _multi_similarity,
        "multi-similarity, both directions, no miner",
        _METRIC_LEARNING,
        "CVPR 2019, https://arxiv.org/abs/1904.06627",
        "many",
        scale="beta",
    ),
    LossInfo(
        "triplet",
        _triplet,
        "triplet margin over all triplets, both directions",
        _METRIC_LEARNING,
        "FaceNet, https://arxiv.org/abs/1503.03832",
        "many",
        scale="margin",
    ),
):
    LOSSES.register(_info)
