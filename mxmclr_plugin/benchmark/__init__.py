"""Measurements: ``python -m mxmclr_plugin.benchmark loss [key=value ...]``."""
