"""No process group is left when Python ends."""

import subprocess
import sys

import pytest
import torch

SCRIPT = """
import atexit
from torch import distributed
from mxmclr_plugin.experiment.training.process_group import destroy_process_group_at_exit

atexit.register(lambda: print("initialized:", distributed.is_initialized()))  # runs last
if {initialized}:
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
destroy_process_group_at_exit()
"""


@pytest.mark.parametrize("initialized", [True, False])
def test_the_group_is_destroyed_at_exit(initialized):
    script = SCRIPT.format(initialized=initialized)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    hangs = torch.__version__ < "2.8"
    assert done.stdout == f"initialized: {initialized and hangs}\n"
