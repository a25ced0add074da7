"""Load finished runs: evaluate, encode, search and export them."""

from mxmclr_plugin.inference.run import Embedded, Run, load_run

__all__ = ["Embedded", "Run", "load_run"]
