"""Signals that end a run: a training is stopped where it can be saved."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

PARENT = "MXMCLR_PARENT"
"""Variable with the process id of the process that started this one; a run ends with it."""

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Interrupted(BaseException):
    """A signal ended the run.

    No ``KeyboardInterrupt``, which Lightning answers with exit status 1.

    Args:
        signum: Number of the signal.
        step: Step at which the training was saved; None if the signal came outside of training.
    """

    def __init__(self, signum: int, step: int | None = None) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.step = step


class Stop:
    """Context in which SIGINT, SIGTERM and SIGHUP end the run.

    In training they set :attr:`signum`, and
    :class:`~mxmclr_plugin.experiment.training.checkpoints.LastCheckpoint` saves and raises
    :class:`Interrupted`. Elsewhere they raise it at once. A second SIGINT ends the process at once.
    A signal that is ignored, as under ``nohup``, stays ignored.

    Attributes:
        signum: Signal that has arrived, None before it.
        training: Whether a training is running.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.training = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            handlers = {signum: signal.getsignal(signum) for signum in _SIGNALS}
            self._before = {s: h for s, h in handlers.items() if h not in (signal.SIG_IGN, None)}
            self.install()
        return self

    def install(self) -> None:
        """Installs the handlers, in place of those that Lightning installs."""
        for signum in self._before:
            signal.signal(signum, self._handle)

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            if signum == signal.SIGINT:
                os._exit(128 + signum)
            return
        self.signum = signum
        if not self.training:
            raise Interrupted(signum)
        # os.write: a handler may have interrupted a print.
        os.write(2, b"saving after this step or validation; Ctrl-C ends at once\n")


def end_with_parent() -> None:
    """Ends this process once the process named by :data:`PARENT` is gone, however that ended."""
    if parent := os.environ.pop(PARENT, None):
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
