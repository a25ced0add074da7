"""Measurements: ``python -m mxmclr_plugin.benchmark {loss,retrieval} [key=value ...]``."""
