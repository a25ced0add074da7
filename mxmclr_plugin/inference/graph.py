"""A tower of tensors as a graph: torch.export's and ONNX's."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from mxmclr_plugin.models.tower import Tower

_ONNX = ("onnx", "onnxscript", "onnxruntime")


def export_graph(tower: Tower, observations: Tensor) -> ExportedProgram:
    """The tower in evaluation mode as torch.export writes it down, for any number of rows.

    ``torch.export.load(path).module()`` of what :func:`save_graph` writes needs nothing of this
    package.

    Args:
        tower: The tower, left as it is.
        observations: Records to try it with, two at least. Shape: (rows, ...).

    Raises:
        ValueError: If it cannot be written down so; says why.
    """
    plain = copy.deepcopy(tower).cpu().eval().requires_grad_(False)
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(
                plain,
                (observations,),
                # torch 2.6 cannot do without an upper bound.
                dynamic_shapes={"observations": {0: Dim("rows", min=1, max=2**31 - 1)}},
                strict=False,
            )
    # Tracing raises whatever the traced code leads it to.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"torch.export cannot write the tower down: {reason}") from error


def save_graph(program: ExportedProgram, path: Path) -> None:
    """Writes an exported tower as ``.pt2``."""
    with _quiet():
        torch.export.save(program, path)


def why_no_onnx() -> str | None:
    """What keeps towers from being written as ONNX; None if nothing does."""
    missing = [name for name in _ONNX if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed: pip install mxmclr-plugin[onnx]"
    if torch.__version__ < "2.7":
        return f"the ONNX writer of torch {torch.__version__} does not go with today's onnxscript"
    return None


def export_onnx(program: ExportedProgram, path: Path) -> None:
    """Writes an exported tower as ONNX; its input is ``observations``, its output ``z``.

    Args:
        program: What :func:`export_graph` made.
        path: The file.

    Raises:
        ImportError: If onnx or onnxscript is not installed.
        ValueError: If it cannot be written as ONNX; says why.
    """
    try:
        with _quiet():
            written = torch.onnx.export(
                program,
                input_names=["observations"],
                output_names=["z"],
                dynamo=True,
                verbose=False,
            )
            assert written is not None
            written.save(str(path))
    except ImportError:
        raise
    except Exception as error:  # as above
        # The exporter's own message tells of its steps, the one behind it what went wrong.
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise ValueError(f"the tower cannot be written as ONNX: {reason}") from error


def run_onnx(path: Path, observations: Tensor) -> Tensor:
    """What onnxruntime makes of observations. Shape: (rows, dim)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    (z,) = session.run(None, {"observations": observations.numpy()})
    return torch.from_numpy(z)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters tell of their steps and of their own deprecations, which help nobody here."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
