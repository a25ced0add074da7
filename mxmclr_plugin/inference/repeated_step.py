"""The training step that stopped a run, repeated to find the first tensor that is not finite."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from mxmclr_plugin.data.batch import MultifoldBatch
from mxmclr_plugin.errors import ConfigError, build_part
from mxmclr_plugin.experiment.run_folder.folder import read_config
from mxmclr_plugin.experiment.training.module import RetrievalModule
from mxmclr_plugin.inference.device import Device
from mxmclr_plugin.inference.run import training_data, untrained_towers
from mxmclr_plugin.loss.multimodal import MultimodalLoss
from mxmclr_plugin.loss.registry import build_loss

_LISTED = 5  # rows in a message


def repeat_step(dump: Path, console: Console, trust: bool = False) -> list[str]:
    """Repeat the step that stopped a run, and say which tensor is not finite first.

    Args:
        dump: ``nonfinite.pt`` in the folder of the run, see
            :class:`~mxmclr_plugin.experiment.training.nonfinite.NonFiniteGuard`.
        console: Where data that are left out are reported.
        trust: Whether the run's configuration may name code that is not registered.

    Returns:
        Lines for people.

    Raises:
        ConfigError: If the file or the run's configuration cannot be read, or do not fit.
    """
    config = read_config(dump.parent, trust)
    step = _read(dump)
    trainer = dataclasses.replace(config.trainer, accelerator="auto")
    device = Device(trainer)
    training = training_data(config, config.data)
    towers, _ = untrained_towers(config, training.data, console)
    loss = MultimodalLoss(build_part("loss", build_loss, config.loss), list(towers))
    module = RetrievalModule(towers, loss, config.directions, config.optimizer, config.eval)
    try:
        module.load_state_dict(step["state_dict"])
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{dump} holds other towers than the config.yaml beside it: {error!s:.300}"
        ) from error
    for tower in towers.values():
        if tower.unfreeze_at is not None and step["step"] >= tower.unfreeze_at:
            tower.unfreeze()
    batch = MultifoldBatch(step["observations"], step["ids"], step["soft_features"])
    torch.set_rng_state(step["random_state"])
    found = first_not_finite(module.to(device.place, device.dtype), batch, device)
    where = f"repeated on {device.place} in precision {config.trainer.precision}"
    return [
        f"step {step['step']} of {dump.parent}: not finite in training: "
        f"{', '.join(step['not_finite'])}",
        f"{where}: {found or 'all is finite, so another device or the order of sums matters'}",
    ]


def _read(dump: Path) -> dict[str, Any]:
    try:
        step = torch.load(dump, map_location="cpu", weights_only=True)
        _ = [step[key] for key in ("state_dict", "observations", "ids", "soft_features")]
        _ = step["step"], step["not_finite"], step["random_state"]
    # What torch raises of a file that is none of its own.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"{dump} is no step that stopped a run: {reason:.200}") from error
    assert isinstance(step, dict)
    return step


def first_not_finite(module: RetrievalModule, batch: MultifoldBatch, device: Device) -> str | None:
    """The first tensor of a training step that is not finite: weights, records, forward, backward.

    Args:
        module: The towers and the loss, on the device.
        batch: The batch, on the CPU.
        device: Device and precision.

    Returns:
        Words for it; None if all are finite.
    """
    for name, weights in module.named_parameters():  # the step has changed running means already
        if not weights.isfinite().all():
            return f"the weights {name} hold {_values(weights)} before the step"
    found: list[str] = []
    names = {part: f"{name} ({type(part).__name__})" for name, part in module.named_modules()}

    def watch(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return
        if not found and not output.isfinite().all():
            sizes = [float(x.detach().abs().max()) for x in inputs if _is_float(x) and x.numel()]
            largest = f"; its inputs are of up to {max(sizes):.3g}" if sizes else ""
            found.append(f"the output of {names[part]} holds {_values(output)}{largest}")
        if output.requires_grad:
            output.register_hook(_watching_gradient(names[part], found))

    handles = [part.register_forward_hook(watch) for part in module.towers.modules()]
    try:
        with device.autocast():
            z = {}
            for name, records in batch.observations.items():
                if isinstance(records, Tensor):
                    if not records.isfinite().all():
                        return f"the records of {name} hold {_values(records)}"
                    dtype = device.dtype if records.is_floating_point() else None
                    records = records.to(device.place, dtype)
                z[name] = module.towers[name](records)
            ids = {name: of.to(device.place) for name, of in batch.ids.items()}
            features = {name: of.to(device.place) for name, of in batch.soft_features.items()}
            if found:
                return found[0]
            loss = module.loss(z, ids, features, batch.pairs)
    finally:
        for handle in handles:
            handle.remove()
    if not loss.isfinite():
        return f"the loss is {loss.item()}, of finite embeddings"
    loss.backward()
    if not found:
        found += [
            f"the gradient of {name} holds {_values(weights.grad)}"
            for name, weights in module.named_parameters()
            if weights.grad is not None and not weights.grad.isfinite().all()
        ]
    return found[0] if found else None


def _watching_gradient(name: str, found: list[str]) -> Callable[[Tensor], None]:
    def watch(gradient: Tensor) -> None:
        if not found and not gradient.isfinite().all():
            found.append(f"the gradient of the output of {name} holds {_values(gradient)}")

    return watch


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _values(tensor: Tensor) -> str:
    """How many values of which rows are NaN or infinite."""
    bad = ~tensor.isfinite()
    words = f"{int(tensor.isnan().sum())} NaN and {int(tensor.isinf().sum())} infinite values"
    if tensor.ndim < 2:
        return words
    rows = bad.flatten(1).any(1).nonzero().flatten().tolist()
    more = ", ..." if len(rows) > _LISTED else ""
    return f"{words} in the rows {', '.join(map(str, rows[:_LISTED]))}{more}"
