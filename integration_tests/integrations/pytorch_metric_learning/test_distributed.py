"""Real processes: this file is the test and, run as a script, one of its processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from oracles.hybrid_loss import loop_loss, loop_rows
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from mxmclr_plugin.integrations.pytorch_metric_learning import MultifoldHybridLoss

PROCESSES = 3
CASES = [
    # Processes, rows of each in both modalities.
    {"world": 2, "rows0": [5, 5], "rows1": [4, 4]},
    {"world": 2, "rows0": [2, 7], "rows1": [6, 1]},
    {"world": 3, "rows0": [1, 5, 3], "rows1": [4, 2, 4]},
]
CALLS = ["uni_modal", "cross_modal", "memory", "older_memory"]


def inputs(case):
    """The whole batch: inputs and labels of both modalities, from which each process has a part."""
    generator = torch.Generator().manual_seed(case["world"] + case["rows0"][0])
    n_0, n_1 = sum(case["rows0"]), sum(case["rows1"])
    draw = {"generator": generator, "dtype": torch.float64}
    labels = [torch.randint(0, 4, (n,), generator=generator) for n in (n_0, n_1)]
    return torch.randn(n_0, 4, **draw), torch.randn(n_1, 4, **draw), *labels


def tower():
    linear = nn.Linear(4, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.arange(12).reshape(3, 4).cos())
    return linear


def memory(loss_func, case, call):
    """A memory of one batch, or of a batch and some rows of the one before."""
    from mxmclr_plugin.integrations.pytorch_metric_learning import CrossBatchMemory

    older = 3 if call == "older_memory" else 0
    return CrossBatchMemory(loss_func, embedding_size=3, memory_size=sum(case["rows0"]) + older)


def process(rank, folder):
    """What one process of each case computes: loss and gradient of every call."""
    from mxmclr_plugin.integrations.pytorch_metric_learning import (
        DistributedLossWrapper,
        MultifoldHybridLoss,
    )

    torch.set_num_threads(1)
    for number, case in enumerate(CASES):
        if rank >= case["world"]:
            continue
        distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/{number}", rank=rank, world_size=case["world"]
        )
        x0, x1, labels0, labels1 = (
            part.split(case[rows])[rank] for part, rows in zip(inputs(case), ["rows0", "rows1"] * 2)
        )
        for call in CALLS:
            loss_func = MultifoldHybridLoss()
            if call.endswith("memory"):
                loss_func = memory(loss_func, case, call)
            loss_func = DistributedLossWrapper(loss_func)
            model = DistributedDataParallel(tower())
            # One pass through DDP for both modalities.
            z0, z1 = model(torch.cat((x0, x1))).split((len(x0), len(x1)))
            if call == "cross_modal":
                loss = loss_func(z0, labels0, ref_emb=z1, ref_labels=labels1)
            else:
                if call == "older_memory":
                    loss_func(2 - z0.detach(), labels0)
                loss = loss_func(z0, labels0)
            loss.backward()
            result = {"loss": loss.item(), "gradient": model.module.weight.grad.tolist()}
            Path(folder, f"{number}-{call}-{rank}.json").write_text(json.dumps(result))
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    path = [str(Path(__file__).parents[1]), *sys.path]
    command = f"import sys; sys.path[:0] = {path!r}; import runpy; runpy.run_path({__file__!r}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"{command})['process']({rank}, {str(folder)!r})"],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(PROCESSES)
    ]
    try:
        errors = [each.communicate(timeout=300)[1] for each in processes]
    finally:
        for each in processes:
            each.kill()
    assert not any(each.returncode for each in processes), "\n".join(errors)
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("number", range(len(CASES)))
def test_every_process_has_the_loss_and_gradient_of_all_rows_in_one(results, number, call):
    model = tower()
    x0, x1, labels0, labels1 = inputs(CASES[number])
    z0, z1 = model(x0), model(x1)
    if call == "cross_modal":
        expected = loop_loss(z0, z1, labels0, labels1)[0]
    elif call == "uni_modal":
        expected = loop_loss(z0, None, labels0)[0]
    elif call == "older_memory":
        in_one = memory(MultifoldHybridLoss(), CASES[number], call)
        in_one(2 - z0.detach(), labels0)
        expected = in_one(z0, labels0)
    else:
        # The memory holds the batch itself, without gradient.
        expected = memory_oracle(z0, labels0)
    (gradient,) = torch.autograd.grad(expected, model.weight)
    assert gradient.abs().max() > 0.01
    for rank in range(CASES[number]["world"]):
        result = results[f"{number}-{call}-{rank}"]
        torch.testing.assert_close(result["loss"], expected.item(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            torch.tensor(result["gradient"], dtype=torch.float64), gradient, rtol=1e-9, atol=1e-9
        )


def memory_oracle(z, labels):
    y = labels.tolist()
    kept = {(u, v) for u in range(len(y)) for v in range(len(y)) if u != v}
    positive = {(u, v) for u, v in kept if y[u] == y[v]}
    hard, soft = loop_rows(z, z.detach(), y, y, kept, positive)
    mean = [sum(losses.values()) / len(losses) for losses in (hard, soft)]
    return 0.7 * mean[0] + 0.3 * mean[1]
