"""Benchmarks: ``python -m mxmclr_plugin.benchmark {loss,retrieval,startup} [key=value ...]``."""
