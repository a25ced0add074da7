"""Error of a training whose other process has ended."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from mxmclr_plugin.errors import TrainingError

_LOST = re.compile(r"by peer|broken pipe|remote process|ncclRemoteError|timed out", re.IGNORECASE)
"""What gloo and NCCL say of a process that does not answer any more."""


@contextmanager
def explaining_lost_process(processes: int) -> Iterator[None]:
    """Context in which a lost connection to another process is an error in one line.

    Raises:
        TrainingError: In place of the error of ``torch.distributed``.
    """
    try:
        yield
    except RuntimeError as error:
        if processes == 1 or not _LOST.search(str(error)):
            raise
        raise TrainingError(
            f"another of the {processes} processes has ended, its own output says why; the same "
            "command with ckpt=last continues, also with another number of processes"
        ) from error
