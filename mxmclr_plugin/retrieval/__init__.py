"""Retrieval between modalities: metrics, and exact search."""
