"""The mark of tests of ``torch.compile(fullgraph=True)``."""

import pytest
import torch

needs_one_graph = pytest.mark.skipif(
    torch.__version__ < "2.7", reason="before torch 2.7 the loss compiles to several graphs"
)
