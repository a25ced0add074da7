"""Shares of the soft target by Triton kernels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mxmclr_plugin.loss.kernels.targets import Softmax
from mxmclr_plugin.loss.kernels.triton.launch import launch
from mxmclr_plugin.loss.kernels.triton.products import add_product, product

HALF_FROM = 1024
"""Instances from which on products of the relation are of 16 bits where normalized rows are.

Features and shares are then rounded to float16, eight times finer than bfloat16, the rows' own
rounding; sums are of float32. Of few instances the products cost nothing.
"""

_PEAK = 2.0**14
"""Greatest share that is stored: float16 then holds shares down to 2^-28 of it in full."""

_SUMS_UNIT = 2.0**6
"""Unit of the sums of unit rows in float16, in which those of 4,000,000 rows have room."""

_BLOCK, _TILE = 16384, (8, 256)
"""Columns of a row that a program has at once, and the tile of a program of the shares."""


class TritonSoftmax(Softmax):
    """:class:`Softmax`, where a strip holds products and two kernels do all the rest."""

    def _prepare(self) -> None:
        batch, features, observed = self.batch, self.relation.features, self.relation.observed
        self.half = self.half and len(features) >= HALF_FROM
        # Rows of 0 behind them: so every row of a product lies where tensor cores want it.
        past = -len(features) % 64
        features = features.half() if self.half else features
        self._features = F.pad(features, (0, 0, 0, past)) if past else features
        self._unit: Tensor | None = None
        self._columns = batch.columns.contiguous()
        # Modalities that were observed have the bits 1 and 2, or 2 alone; see the kernels.
        kinds = observed[:, -1] * 2
        if observed.shape[1] == 2:
            kinds.add_(observed[:, 0])
        kinds.add_(batch.present[:, 1], alpha=4).add_(batch.present[:, 0], alpha=8)
        kinds = kinds.to(torch.int8)
        self._kinds = F.pad(kinds, (0, past)) if past else kinds
        # 0 where an instance is no partner of itself; None if none is.
        self._own_counts: Tensor | None = None
        if not self.target.others:
            counts = batch.own_columns[:, 0].contiguous()
            self._own_counts = torch.ones_like(counts) if batch.squares is None else counts

    def _strip(self, at: slice | Tensor, instances: Tensor) -> Tensor:
        """Products of the features, and columns of 0 behind them. Shape: (rows, at least N)."""
        return product(self._features[at], self._features.T)

    def _fill(self, numbers: Tensor, products: Tensor, instances: Tensor) -> None:
        import triton

        from mxmclr_plugin.loss.kernels.triton.relation_kernels import relation_rows_kernel

        eps = torch.finfo(torch.float32).eps
        stride = products.shape[1]
        block = min(_BLOCK, triton.next_power_of_2(stride))
        launch(
            relation_rows_kernel,
            (len(instances),),
            products,
            *(products, instances, self._kinds, self._own_counts, numbers),
            *(stride, float(self.target.temperature)),
            # But for rounding: of the sums, or of the features.
            256 * eps if self.half else 64 * eps,
            STANDARDIZE=self.target.standardize,
            BLOCK=block,
            num_warps=max(1, min(16, block // 512)),
        )

    def pulls(
        self, weights: Tensor, totals0: Tensor, sums1: Tensor, gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        """M B of owned instances, and this process's part of M^T A, both without the diagonal."""
        if not self.half:
            return super().pulls(weights, totals0, sums1, gradient)
        # No share is greater than both weights.
        self._unit = weights.amax().clamp_(min=1e-30).mul_(2 / _PEAK)
        totals0, sums1 = (x.mul(1 / _SUMS_UNIT).half() for x in (totals0, sums1))
        pull0, pull1 = super().pulls(weights, totals0, sums1, gradient)
        back = self._unit * _SUMS_UNIT
        return pull0.mul_(back), None if pull1 is None else pull1.mul_(back)

    def _shares(
        self, products: Tensor, instances: Tensor, offset: Tensor, inverse: Tensor
    ) -> Tensor:
        from mxmclr_plugin.loss.kernels.triton.relation_kernels import shares_kernel

        shares = torch.empty_like(products, dtype=self._features.dtype)
        rows, n = len(shares), len(self._columns)
        height, width = _TILE
        launch(
            shares_kernel,
            (-(-shares.shape[1] // width), -(-rows // height)),
            products,
            *(products, instances, self._kinds, self.slope, offset, inverse, self._unit, shares),
            *(rows, n, shares.shape[1], self.slope.stride(0)),
            BOTH=self.both,
            BLOCK_M=height,
            BLOCK_N=width,
            num_warps=4,
        )
        return shares[:, :n]

    def _add_product(self, out: Tensor, left: Tensor, right: Tensor) -> None:
        add_product(out, left, right)
