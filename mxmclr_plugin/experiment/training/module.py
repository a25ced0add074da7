"""Lightning module that trains towers with a loss between them and measures retrieval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightly.models.utils import get_weight_decay_parameters
from lightly.utils.scheduler import CosineWarmupScheduler
from pytorch_lightning import LightningModule
from torch import Tensor, distributed, nn

from mxmclr_plugin.data.batch import MultifoldBatch, Observations
from mxmclr_plugin.data.observations import ObservationBatch
from mxmclr_plugin.errors import TrainingError
from mxmclr_plugin.experiment.config.run_config import EvalConfig, OptimizerConfig
from mxmclr_plugin.experiment.run_folder.metrics import SplitMetrics, measure
from mxmclr_plugin.experiment.training.fully_sharded import shard
from mxmclr_plugin.loss.multifold_hybrid import MultifoldHybridLoss
from mxmclr_plugin.loss.multimodal import MultimodalLoss
from mxmclr_plugin.models.checkpointing import encode_in_chunks
from mxmclr_plugin.models.tower import Tower
from mxmclr_plugin.retrieval.direction import Direction
from mxmclr_plugin.retrieval.graded import Relevance


class RetrievalModule(LightningModule):
    """One tower per modality, one loss between them.

    Args:
        towers: Tower of each modality; several modalities may share one.
        loss: Called with embeddings and ids by modality.
        directions: Directions of retrieval by name: ``{"t2s": Direction("text", "voxel")}``.
        optimizer: Options of the optimizer.
        evaluation: The metrics.
        cache_chunk: Observations encoded at once in training; None for all of a batch, see
            :func:`~mxmclr_plugin.models.checkpointing.encode_in_chunks`.

    Attributes:
        tested: Metrics of the last test, None before it.
        training_set: Digest of the training set, kept in checkpoints.
        relevance: How relevant the instances of the next test are to each other, for the graded
            metric.
        embeddings: Embeddings of the last training batch, detached, by modality.
    """

    def __init__(
        self,
        towers: Mapping[str, Tower],
        loss: MultimodalLoss,
        directions: Mapping[str, Direction],
        optimizer: OptimizerConfig,
        evaluation: EvalConfig,
        cache_chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.towers = nn.ModuleDict(towers)
        self.loss = loss
        self.directions = dict(directions)
        self.optimizer_config = optimizer
        self.evaluation = evaluation
        self.cache_chunk = cache_chunk
        self.tested: SplitMetrics | None = None
        self.training_set: str | None = None
        self.relevance: Relevance | None = None
        self._options: list[tuple[float, float]] = []  # learning rate and decay by group
        self.embeddings: dict[str, Tensor] = {}
        self._encoded: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
        self._sharded = False
        # Before the loss's own hook, which knows no steps.
        self.register_state_dict_pre_hook(_check_before_saving)
        self.train()  # pretrained models come in evaluation mode, and Lightning leaves them in it

    def training_step(self, batch: MultifoldBatch, batch_idx: int) -> Tensor | None:
        loss = self.compute_loss(batch)
        if loss is None:
            return None
        metrics = {"train/loss": loss.detach()}
        metrics |= {f"train/{name}": value for name, value in self.loss.last.items()}
        # Not in the progress bar: Lightning reads what is there from the device in every step.
        self.log_dict(metrics, prog_bar=False)
        return loss

    def compute_loss(self, batch: MultifoldBatch) -> Tensor | None:
        """Loss of a batch; None if the loss refuses embeddings that are not finite.

        :class:`~mxmclr_plugin.experiment.training.nonfinite.NonFiniteGuard` reports these.

        Raises:
            TrainingError: If the loss refuses the batch for another reason. On a CUDA device it
                does so a step later, see
                :meth:`~mxmclr_plugin.loss.multifold_hybrid.MultifoldHybridLoss.check_last_call`.
        """
        z = {name: self._encode(name, batch.observations[name]) for name in batch.modalities}
        self.embeddings = {name: rows.detach() for name, rows in z.items()}
        try:
            loss: Tensor = self.loss(z, batch.ids, batch.soft_features, self._pairs_of(batch))
        except ValueError as error:
            bad = self._not_finite()
            if bad and self.trainer.world_size == 1:
                return None
            if bad:  # other processes wait for the gradients of this one
                raise TrainingError(
                    f"step {self.global_step}: not finite: embeddings of {', '.join(bad)}; try a "
                    "lower optimizer.lr"
                ) from error
            raise self._refusal(self.global_step, error) from error
        return loss

    def check_last_step(self) -> None:
        """Reads the checks of the last step that the loss has not read, as on a CUDA device.

        Raises:
            TrainingError: If the loss refuses that batch, but not because embeddings are not
                finite, which the guard reports.
        """
        for part in self.loss.modules():
            if isinstance(part, MultifoldHybridLoss):
                try:
                    part.check_last_call()
                except ValueError as error:
                    if not self._not_finite():
                        raise self._refusal(self.global_step - 1, error) from error

    def _not_finite(self) -> list[str]:
        """Modalities whose last embeddings are not finite."""
        return [name for name, rows in self.embeddings.items() if not rows.isfinite().all()]

    def _refusal(self, step: int, error: ValueError) -> TrainingError:
        dead = [name for name, rows in self.embeddings.items() if not rows.any(dim=1).all()]
        reason = f"the embeddings of {dead[0]} are zero, its tower is dead" if dead else str(error)
        return TrainingError(f"step {step}: {reason}")

    def _encode(self, modality: str, observations: Observations) -> Tensor:
        chunk = self.cache_chunk or len(observations)
        tower = self.towers[modality]
        if chunk < len(observations):
            return encode_in_chunks(tower, observations, chunk)
        return tower(observations)  # type: ignore[no-any-return]

    def _pairs_of(self, batch: MultifoldBatch) -> frozenset[tuple[str, str]] | None:
        # Processes that gather rows must agree on the pairs; a row may have its positive elsewhere.
        gathers = any(getattr(part, "gather_distributed", False) for part in self.loss.modules())
        return None if gathers and self.trainer.world_size > 1 else batch.pairs

    def configure_model(self) -> None:
        # Called again before the test.
        if self.device_mesh is not None and not self._sharded:
            shard(self._each_tower(), self.loss, self.device_mesh["data_parallel"])
            self._sharded = True

    def configure_optimizers(self) -> Any:
        config = self.optimizer_config
        optimizer = torch.optim.AdamW(
            self._parameter_groups(config.lr),
            lr=config.lr,
            weight_decay=config.weight_decay,
        )
        self._options = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = CosineWarmupScheduler(
            optimizer, warmup_epochs=int(config.warmup * steps), max_epochs=steps
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Parameters with and without weight decay, for each scale of the learning rate."""
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
        self.check_last_step()
        # By the number of the step alone, so that a resumed run needs to remember nothing.
        for tower in self._each_tower():
            if tower.unfreeze_at is not None and self.global_step >= tower.unfreeze_at:
                tower.unfreeze()

    def on_validation_epoch_start(self) -> None:
        self._encoded = {}
        if self._sharded:
            # Statistics of batch normalisation; DDP does so itself.
            for buffer in self.towers.buffers():
                distributed.broadcast(buffer, 0)

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
        measured = measure(
            *self._embeddings(),
            self.directions,
            self.evaluation,
            distributed=self.trainer.world_size > 1,
        )
        for name, value in measured.flat().items():
            self.log(f"val/{name}", value, prog_bar=name == "mean_recall")

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self.tested = measure(
            *self._embeddings(),
            self.directions,
            self.evaluation,
            groups=True,
            relevance=self.relevance,
            progress=self.trainer.is_global_zero,
            distributed=self.trainer.world_size > 1,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # So that dropout draws the same numbers after a resumption.
        checkpoint["torch_rng_state"] = torch.get_rng_state()
        checkpoint["training_set"] = self.training_set
        if self.device.type == "cuda":
            checkpoint["cuda_rng_state"] = torch.cuda.get_rng_state(self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        torch.set_rng_state(checkpoint["torch_rng_state"].cpu())
        if self.device.type == "cuda" and "cuda_rng_state" in checkpoint:
            torch.cuda.set_rng_state(checkpoint["cuda_rng_state"].cpu(), self.device)
        # Position alone: length and height of the schedule are those of the configuration.
        checkpoint["lr_schedulers"] = [
            {key: state[key] for key in ("last_epoch", "_step_count", "_last_lr", "lr_lambdas")}
            for state in checkpoint["lr_schedulers"]
        ]

    def on_train_start(self) -> None:
        # A checkpoint brings the options of its optimizer. Equal ones stay equal, bit by bit.
        optimizer, scheduler = self.trainer.optimizers[0], self.lr_schedulers()
        assert isinstance(scheduler, CosineWarmupScheduler)
        factor = scheduler.scale_lr(scheduler.last_epoch)
        for group, (lr, weight_decay) in zip(optimizer.param_groups, self._options, strict=True):
            group.update(lr=lr * factor, initial_lr=lr, weight_decay=weight_decay)

    def _embeddings(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What was encoded, and the instance of each row, by modality."""
        embeddings, ids = {}, {}
        for modality, batches in self._encoded.items():
            z, ids[modality] = self._of_all_ranks(batches)
            if (bad := ~z.isfinite().all(dim=1)).any():
                listed = ", ".join(map(str, ids[modality][bad][:5].tolist()))
                raise TrainingError(
                    f"step {self.global_step}: {int(bad.sum())} embeddings of {modality} are not "
                    f"finite in evaluation (instances {listed}, ...); try a lower optimizer.lr"
                )
            embeddings[modality] = z
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


def _check_before_saving(module: nn.Module, *_: object) -> None:
    assert isinstance(module, RetrievalModule)
    module.check_last_step()
