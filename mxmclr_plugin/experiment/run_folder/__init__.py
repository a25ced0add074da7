"""What a run leaves in its folder: configuration, checkpoints, curves and metrics."""
