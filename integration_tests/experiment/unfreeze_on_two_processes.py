"""Unfreezes a backbone under DDP on two CPU processes; each writes the weights it ends with.

Run as ``unfreeze_on_two_processes.py FOLDER``; Lightning runs it again for the second process.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from experiment.small_training import fit, retrieval_module

from mxmclr_plugin.experiment.training.process_group import destroy_process_group_at_exit

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    module = retrieval_module(frozen=True, unfreeze_at=2)
    strategy = "ddp_find_unused_parameters_true"
    trainer, _ = fit(module, folder, 4, devices="2", strategy=strategy)
    torch.save(module.state_dict(), folder / f"{trainer.global_rank}.pt")
    destroy_process_group_at_exit()
