"""What a run has trained, loaded: its towers, and what they make of data."""

from mxmclr_plugin.inference.run import Embedded, TrainedRun

__all__ = ["Embedded", "TrainedRun"]
