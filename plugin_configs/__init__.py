"""Hydra configuration of the runner's tasks, losses, data, towers and trainer."""
