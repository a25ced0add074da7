"""Runs as jobs of SLURM, submitted by submitit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxmclr_plugin.comparison.local_processes import run_here
from mxmclr_plugin.comparison.planned_run import PlannedRun
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.optional_packages import optional

if TYPE_CHECKING:
    from submitit import Job
    from submitit.helpers import DelayedSubmission


class SlurmJobs:
    """Jobs of SLURM; on a machine without it, processes that submitit starts.

    A job that is preempted or reaches its time limit is submitted again and continues from its last
    checkpoint.

    Args:
        jobs: Runs at a time; None for all, which then wait in SLURM's queue.
        waiting: Number of runs.
        resources: Parameters of submitit: ``timeout_min`` (a day by default), ``gpus_per_node``,
            ``cpus_per_task``, ``slurm_partition``, ...
        folder: Folder for submitit's files; nodes must see it and the runs at the same path.

    Attributes:
        slots: Runs at a time.
        poll_seconds: Time between looks at the runs.

    Raises:
        ConfigError: If submitit is not installed or does not know a parameter.
    """

    poll_seconds = 1.0

    def __init__(
        self, jobs: int | None, waiting: int, resources: Mapping[str, Any], folder: Path
    ) -> None:
        submitit = optional("submitit", "launcher=slurm needs", "cluster")
        self._executor = submitit.AutoExecutor(folder)
        try:
            self._executor.update_parameters(**{"timeout_min": 24 * 60, **resources})
        except (NameError, TypeError, ValueError) as error:
            raise ConfigError(f"resources: {' '.join(str(error).split())}") from error
        self.slots = min(jobs or waiting, waiting)

    def start(self, run: PlannedRun, slot: int) -> _SlurmRun:
        """Submit a run."""
        return _SlurmRun(self._executor.submit(_Resumed(run)))


class _Resumed:
    """A run that is submitted again when its job ends before it."""

    def __init__(self, run: PlannedRun) -> None:
        self.run = run

    def __call__(self) -> int:
        return run_here(self.run)

    def checkpoint(self) -> DelayedSubmission:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class _SlurmRun:
    def __init__(self, job: Job[int]) -> None:
        self._job = job

    def status(self) -> int | str | None:
        if not self._job.done():
            return None
        error = self._job.exception()
        if error is None:
            return self._job.result()
        return f"job {self._job.job_id}: {str(error).strip().splitlines()[-1]}"

    def stop(self) -> None:
        self._job.cancel()

    def wait_stopped(self) -> None:
        deadline = time.monotonic() + 10
        while not self._job.done() and time.monotonic() < deadline:
            time.sleep(0.1)
