"""Device and precision of a run's test, as in Lightning but without the seconds of its import."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.run_config import TrainerConfig, precision_of

_WEIGHTS = {"64": torch.float64, "16-true": torch.float16, "bf16-true": torch.bfloat16}
_MIXED = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


class Device:
    """Where and how precisely a run encodes.

    Attributes:
        place: Device.
        dtype: Dtype to which weights and floating observations are converted; None leaves them.

    Args:
        config: Trainer of the run.
        name: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; ``"auto"`` takes the trainer's accelerator.

    Raises:
        ConfigError: If there is no such device here.
    """

    def __init__(self, config: TrainerConfig, name: str = "auto") -> None:
        self.place = _device(_accelerator(config.accelerator) if name == "auto" else name)
        precision = precision_of(config)
        self.dtype = _WEIGHTS.get(precision)
        self._mixed = _MIXED.get(precision)

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which towers run in mixed precision, if that is the trainer's."""
        if self._mixed is None:
            return nullcontext()
        return torch.autocast(self.place.type, dtype=self._mixed)


def _device(name: str) -> torch.device:
    try:
        place = torch.device(name)
        if torch.get_device_module(place).device_count() > (place.index or 0):
            return place
    except RuntimeError:  # torch does not know it
        pass
    raise ConfigError(
        f"trainer.accelerator: there is no device {name} here; trainer.accelerator=cpu runs "
        "everywhere"
    )


def _accelerator(name: str) -> str:
    """Type of torch's device for one of Lightning's accelerators."""
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    return "cuda" if name == "gpu" else name
