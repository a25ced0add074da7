"""sentence-transformers' ranking loss on the pairs of a multifold batch."""

from __future__ import annotations

from torch import Tensor, nn

from mxmclr_plugin.bounds import Positive, within_bounds
from mxmclr_plugin.loss.baselines.pairing import PairedLoss
from mxmclr_plugin.registry import register_loss


class RankingLoss(nn.Module):
    """Multiple negatives ranking loss[0], computed by sentence-transformers from embeddings.

    - [0] Henderson et al., 2017, https://arxiv.org/abs/1705.00652

    Attributes:
        loss:
            Their loss. It holds an empty model, since the embeddings come from towers.
    """

    @within_bounds
    def __init__(self, temperature: Positive = 0.05, symmetric: bool = False) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        super().__init__()
        self.loss = MultipleNegativesRankingLoss(
            SentenceTransformer(modules=[nn.Identity()]),
            scale=1 / temperature,
            directions=("query_to_doc", "doc_to_query") if symmetric else ("query_to_doc",),
            partition_mode="per_direction",
        )

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Loss of aligned pairs, ``z0`` the queries and ``z1`` the documents, (pairs, D) each."""
        dtype = z0.float().dtype if z0.element_size() < 4 else z0.dtype
        loss: Tensor = self.loss.compute_loss_from_embeddings(
            [z0.to(dtype), z1.to(dtype)],
            labels=z0.new_zeros(0),  # unused
        )
        return loss


@register_loss(
    "mnrl",
    positives="one",
    source="sentence-transformers",
    paper="https://arxiv.org/abs/1705.00652",
)
def mnrl(temperature: Positive = 0.05, symmetric: bool = False) -> PairedLoss:
    """Multiple negatives ranking loss, first to second modality unless symmetric.

    Args:
        temperature: Logits are divided by it.
        symmetric: Whether both directions are taken.
    """
    return PairedLoss(RankingLoss(temperature, symmetric))
