"""Towers: from the observations of a modality to unit vectors."""

from mxmclr_plugin.models.feature_cache import cached_features, fingerprint_module
from mxmclr_plugin.models.registry import build_tower, list_towers
from mxmclr_plugin.models.tower import Backbone, Tower

__all__ = [
    "Backbone",
    "Tower",
    "build_tower",
    "cached_features",
    "fingerprint_module",
    "list_towers",
]
