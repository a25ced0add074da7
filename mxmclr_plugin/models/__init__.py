"""Towers: from the observations of a modality to unit vectors."""

from mxmclr_plugin.models import catalog  # noqa: F401 (registers the towers)
from mxmclr_plugin.models.feature_cache import cached_features, fingerprint_module
from mxmclr_plugin.models.registry import TOWERS, TowerInfo, build_tower, list_towers, tower_of
from mxmclr_plugin.models.tower import Backbone, Tower

__all__ = [
    "TOWERS",
    "Backbone",
    "Tower",
    "TowerInfo",
    "build_tower",
    "cached_features",
    "fingerprint_module",
    "list_towers",
    "tower_of",
]
