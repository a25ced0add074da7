"""Towers: from the observations of a modality to unit vectors."""
