"""Records of one modality are stacked to batches, so they are of one shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mxmclr_plugin.data.file_store import Reader, UnreadableFile

__all__ = ["OneShape"]


@dataclass(frozen=True)
class OneShape:
    """A reader that refuses records of another shape or type.

    Attributes:
        read: The reader of one file.
        shape: The shape that a record must have.
        dtype: Its type.
    """

    read: Reader
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __call__(self, path: Path) -> Tensor:
        record = self.read(path)
        shape = tuple(record.shape)
        if (shape, record.dtype) != (self.shape, self.dtype):
            raise UnreadableFile(
                path,
                f"is {record.dtype} of shape {shape}, but the first one is {self.dtype} of "
                f"{self.shape}",
            )
        return record
