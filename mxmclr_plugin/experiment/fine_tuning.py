"""Which configured towers train a pretrained backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mxmclr_plugin.experiment.config.run_config import RunConfig
from mxmclr_plugin.registry import TOWERS


def is_fine_tuned(tower: Mapping[str, Any]) -> bool:
    """Whether a configured tower trains a pretrained backbone, from the first step or later."""
    registered = TOWERS[tower["name"]].defaults if "name" in tower else {}
    frozen = tower.get("frozen", registered.get("frozen", False))
    trained = not frozen or tower.get("unfreeze_at") is not None
    # A tower that is frozen unless it is configured otherwise is pretrained.
    pretrained = registered.get("frozen", False) or tower.get("weights") is not None
    return trained and pretrained


def pretrained_at_full_rate(config: RunConfig) -> list[str]:
    """Modalities whose pretrained backbone is trained at the learning rate of the heads."""
    return [
        modality
        for modality, tower in config.towers.items()
        if is_fine_tuned(tower) and tower.get("lr_scale", 1.0) == 1.0
    ]
