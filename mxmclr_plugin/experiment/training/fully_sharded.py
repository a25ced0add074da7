"""Strategy ``fsdp2``: each process keeps a share of weights, gradients and optimizer states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from mxmclr_plugin.experiment.run_folder.checkpoint_files import load_checkpoint
from mxmclr_plugin.models.checkpointing import blocks_of
from mxmclr_plugin.models.tower import Tower


class FullyShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with the checkpoints of every other strategy.

    A checkpoint is one file of whole tensors, so that a run continues with any number of
    processes, and every tool that reads checkpoints reads it.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return _on_cpu(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        return _on_cpu(optimizer.state_dict())

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        content = load_checkpoint(Path(checkpoint_path), mmap=True)
        assert self.lightning_module is not None
        there = self.lightning_module.state_dict()
        self.lightning_module.load_state_dict(
            {
                name: _sharded_as(there[name], value) if name in there else value
                for name, value in content["state_dict"].items()
            }
        )
        for optimizer, saved in zip(
            self.optimizers, content.get("optimizer_states", ()), strict=False
        ):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state = {
                k: {name: _sharded_as(parameters[k], value) for name, value in of.items()}
                for k, of in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})
        return content


def shard(towers: list[Tower], loss: nn.Module, mesh: DeviceMesh) -> None:
    """Shard towers, block by block, and the parameters of a loss over the processes of a mesh.

    Args:
        towers: Changed in place. Each is gathered while it encodes.
        loss: Changed in place.
        mesh: The processes. Shape: (processes,).
    """
    for tower in towers:
        for parameter in tower.parameters():  # fully_shard takes no other memory format
            parameter.data = parameter.data.contiguous()
        for block in blocks_of(tower.backbone):
            fully_shard(block, mesh=mesh)
        fully_shard(tower, mesh=mesh)
    if any(True for _ in loss.parameters()):
        fully_shard(loss, mesh=mesh)


def gather_weights(module: nn.Module) -> None:
    """Replace sharded parameters by whole ones; all processes call it together."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if isinstance(parameter, DTensor):
                part.register_parameter(
                    name, nn.Parameter(parameter.full_tensor(), parameter.requires_grad)
                )


def whole(tensor: Tensor) -> Tensor:
    """A tensor without shards; all processes call it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _on_cpu(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict of whole tensors on the CPU."""
    copied: dict[str, Any] = tree_map(
        lambda value: whole(value).cpu() if isinstance(value, Tensor) else value, state
    )
    return copied


def _sharded_as(like: Tensor, value: Any) -> Any:
    """A whole tensor in the shards of another one of its shape; other values unchanged."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or like.shape != value.shape:
        return value
    value = value.to(like.device, like.dtype if value.is_floating_point() else None)
    return distribute_tensor(value, like.device_mesh, like.placements)
