"""Runs as tasks of a Ray cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from mxmclr_plugin.comparison.local_processes import run_here
from mxmclr_plugin.comparison.planned_run import PlannedRun
from mxmclr_plugin.errors import ConfigError, first_line
from mxmclr_plugin.optional_packages import optional


class RayTasks:
    """Tasks that Ray places on the cores and GPUs of its nodes.

    The cluster is the one at ``RAY_ADDRESS``, or one of this machine alone. All nodes must see the
    folder of the runs at the same path. A run whose node dies continues on another from its last
    checkpoint.

    Args:
        jobs: Runs at a time; None for as many as fit.
        waiting: Number of runs.
        resources: Options of ``ray.remote``: by default a run has one core and, if the cluster has
            GPUs, one GPU.

    Attributes:
        slots: Runs at a time.
        poll_seconds: Time between looks at the runs.

    Raises:
        ConfigError: If Ray is not installed, or there is no such cluster or option.
    """

    poll_seconds = 0.5

    def __init__(self, jobs: int | None, waiting: int, resources: Mapping[str, Any]) -> None:
        ray = optional("ray", "launcher=ray needs", "cluster")
        self._ray = ray
        address = os.environ.get("RAY_ADDRESS")
        try:
            if not ray.is_initialized():
                ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
            gpus = 1 if ray.cluster_resources().get("GPU") else 0
            options = {"num_cpus": 1, "num_gpus": gpus, "max_retries": 3, **resources}
            self._task = ray.remote(**options)(run_here)
        except (ConnectionError, ValueError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"launcher=ray, RAY_ADDRESS={address}, resources={dict(resources)}: {reason}"
            ) from error
        self.slots = min(jobs or waiting, waiting)

    def start(self, run: PlannedRun, slot: int) -> _RayRun:
        """Hand a run to Ray."""
        return _RayRun(self._ray, self._task.remote(run))


class _RayRun:
    def __init__(self, ray: Any, task: Any) -> None:
        self._ray, self._task = ray, task

    def status(self) -> int | str | None:
        if not self._ray.wait([self._task], timeout=0)[0]:
            return None
        try:
            return int(self._ray.get(self._task))
        except self._ray.exceptions.RayError as error:
            return f"Ray: {first_line(error)}"

    def stop(self) -> None:
        self._ray.cancel(self._task, force=True)

    def wait_stopped(self) -> None:
        self._ray.wait([self._task], timeout=10)
