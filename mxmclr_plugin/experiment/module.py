"""Trains towers towards each other and measures retrieval between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightly.models.utils import get_weight_decay_parameters
from lightly.utils.scheduler import CosineWarmupScheduler
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from mxmclr_plugin.data.batch import MultifoldBatch
from mxmclr_plugin.data.observations import ObservationBatch
from mxmclr_plugin.experiment.metrics import retrieval_figures
from mxmclr_plugin.experiment.parts_config import EvalConfig, OptimizerConfig
from mxmclr_plugin.loss.multimodal import MultimodalLoss
from mxmclr_plugin.models.tower import Tower

__all__ = ["RetrievalModule"]


class RetrievalModule(LightningModule):
    """One tower a modality, one criterion between them.

    Args:
        towers: Tower of each modality; several modalities may share one.
        criterion: Called with embeddings and ids by modality.
        directions: Name of each direction of retrieval, with the modality of the queries and that
            of the gallery: ``{"t2s": ("text", "voxel")}``; see
            :func:`~mxmclr_plugin.retrieval.items.retrieval_items` for what they may be.
        optimizer: Options of the optimizer.
        evaluation: What is measured.
        soft_from: Modalities whose frozen backbones give the soft relation, in place of what is
            being trained.

    Attributes:
        test_figures: Of the last test, by direction.
        test_group_figures: Of the last test, means over groups of instances; empty where none were
            asked for, or there were not enough instances for one.
    """

    def __init__(
        self,
        towers: Mapping[str, Tower],
        criterion: MultimodalLoss,
        directions: Mapping[str, Sequence[str]],
        optimizer: OptimizerConfig,
        evaluation: EvalConfig,
        soft_from: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.towers = nn.ModuleDict(towers)
        self.criterion = criterion
        self.directions = {name: (query, gallery) for name, (query, gallery) in directions.items()}
        self.optimizer_config = optimizer
        self.evaluation = evaluation
        self.soft_from = list(soft_from)
        self.test_figures: dict[str, dict[str, float]] = {}
        self.test_group_figures: dict[str, dict[str, float]] = {}
        self._encoded: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
        self.train()  # pretrained models come in evaluation mode, and Lightning leaves them in it

    def training_step(self, batch: MultifoldBatch, batch_idx: int) -> Tensor:
        z, features = {}, {}
        for name in batch.modalities:
            tower, observations = self.towers[name], batch.observations[name]
            if name in self.soft_from:
                # Encoded once, for the relation and for the tower's head.
                assert isinstance(tower, Tower)
                observations = features[name] = tower.features(observations)
            z[name] = tower(observations)
        loss: Tensor = self.criterion(z, batch.ids, features)
        figures = {"train/loss": loss.detach()}
        figures |= {f"train/{name}": value for name, value in self.criterion.last.items()}
        self.log_dict(figures, prog_bar=False)
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        return loss

    def configure_optimizers(self) -> Any:
        config = self.optimizer_config
        optimizer = torch.optim.AdamW(
            self._parameter_groups(config.lr),
            lr=config.lr,
            weight_decay=config.weight_decay,
        )
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = CosineWarmupScheduler(
            optimizer, warmup_epochs=int(config.warmup * steps), max_epochs=steps
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """What is decayed and what is not, for each scale of the learning rate."""
        scale_of = {
            id(parameter): tower.lr_scale
            for tower in self._each_tower()
            for parameter in tower.backbone.parameters()
        }
        groups: list[dict[str, Any]] = []
        decayed, kept = get_weight_decay_parameters([self])
        for scale in dict.fromkeys([1.0, *scale_of.values()]):
            for options, parameters in (({}, decayed), ({"weight_decay": 0.0}, kept)):
                params = [
                    p for p in parameters if p.requires_grad and scale_of.get(id(p), 1.0) == scale
                ]
                groups.append({"params": params, "lr": lr * scale, **options})
        return [group for group in groups if group["params"]]

    def _each_tower(self) -> list[Tower]:
        """The towers, one that several modalities share once."""
        return [tower for tower in dict.fromkeys(self.towers.values()) if isinstance(tower, Tower)]

    def on_train_batch_start(self, batch: MultifoldBatch, batch_idx: int) -> None:
        # By the number of the step alone, so that a resumed run needs to remember nothing.
        for tower in self._each_tower():
            if tower.unfreeze_at is not None and self.global_step >= tower.unfreeze_at:
                tower.unfreeze()

    def on_validation_epoch_start(self) -> None:
        self._encoded = {}

    def validation_step(
        self,
        batch: ObservationBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        embeddings = self.towers[batch.modality](batch.observations)
        self._encoded.setdefault(batch.modality, []).append(
            (embeddings, batch.ids, batch.positions)
        )

    def on_validation_epoch_end(self) -> None:
        figures, _ = retrieval_figures(*self._embeddings(), self.directions, self.evaluation)
        for direction, values in figures.items():
            for name in values.keys() - {"chance@1", "queries", "gallery"}:
                self.log(f"val/{direction}/{name}", values[name], rank_zero_only=False)
        first = f"rr@{self.evaluation.ks[0]}"
        score = sum(values[first] for values in figures.values()) / len(figures)
        self.log("val/score", score, prog_bar=True)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self.test_figures, self.test_group_figures = retrieval_figures(
            *self._embeddings(), self.directions, self.evaluation, groups=True
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A tower with dropout goes on with the numbers it would have drawn.
        checkpoint["torch_rng_state"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        torch.set_rng_state(checkpoint["torch_rng_state"].cpu())

    def _embeddings(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What was encoded, and the instance of each row, by modality."""
        embeddings, ids = {}, {}
        for modality, batches in self._encoded.items():
            embeddings[modality], ids[modality] = self._of_all_ranks(batches)
        self._encoded = {}
        return embeddings, ids

    def _of_all_ranks(self, batches: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Embeddings and ids of a modality, each observation once, in their order."""
        z, ids, positions = (torch.cat(column) for column in zip(*batches, strict=True))
        if self.trainer.world_size > 1:
            # Lightning's sampler gives every rank as many rows, repeating some.
            gathered = self.all_gather((z, ids, positions))
            assert isinstance(gathered, tuple)
            z, ids, positions = (column.flatten(0, 1) for column in gathered)
        order = torch.argsort(positions)
        first = torch.ones_like(positions, dtype=torch.bool)
        first[1:] = positions[order][1:] != positions[order][:-1]
        order = order[first]
        return z[order], ids[order]
