"""The commands of docs/scaling.md for several machines, run as they are written there.

Both machines are this one, with one process each. In place of `srun`, the test sets the variables
that SLURM sets. Replaced in a command are the host, the numbers of cards, and the data.
"""

import json
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mxmclr_plugin.experiment.run_folder.checkpoint_files import load_checkpoint
from mxmclr_plugin.run.command_line import main

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
DATA = "manifest data.path=small.jsonl"
SMALL = (
    *("batch.folds={en:2,de:2}", "batch.repeats=1", "trainer.accelerator=cpu"),
    *("+towers/text@towers.en=bag_of_words", "+towers/text@towers.de=bag_of_words"),
    *("trainer.precision=32", "optimizer.lr=0.01", "trainer.max_steps=12"),
)
NODES = 2

pytestmark = pytest.mark.timeout(1800)


def page_command(first_word):
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    return next(line for line in text.splitlines() if line.startswith(first_word))


def here(command, out):
    """A command of the page with the data, the host and the numbers of this test."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    command = re.sub(r"coco data\.root=FOLDER", DATA, command)
    command = re.sub(r"HOST:\d+", f"127.0.0.1:{port}", command)
    command = re.sub(r"(nproc-per-node|trainer\.devices)=\d+", r"\1=1", command)
    command = re.sub(r"out=\S+", f"out={out}", command)
    return [*shlex.split(command, comments=True), "batch.instances=4", *SMALL]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a small manifest, and commands for torchrun and mxmclr in the path."""
    draw = random.Random(1)
    words = ["red", "blue", "green", "tall", "small", "old", "chair", "table", "lamp", "stool"]
    with (tmp_path / "small.jsonl").open("w") as file:
        for k in range(60):
            own = draw.choices(words, k=3)
            texts = [" ".join([*own, *draw.choices(words, k=2)]) for _ in range(4)]
            row = {"id": k, "text:en": texts[:2], "text:de": texts[2:]}
            split = "train" if k < 36 else "val" if k < 48 else "test"
            file.write(json.dumps({**row, "split": split}) + "\n")
    monkeypatch.chdir(tmp_path)
    for name, module in (("torchrun", "torch.distributed.run"), ("mxmclr", "mxmclr_plugin.run")):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.fixture
def start(folder):
    """Starts a command on a node; all are ended with the test."""
    started = []

    def start(command, node, **variables):
        log = (folder / f"node{len(started)}.log").open("w+")
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**os.environ, **variables, "NODE": str(node)},
        )
        started.append(process)
        return process, Path(log.name)

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()  # torchrun ends its workers, which have sessions of their own
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


def slurm(node, port):
    """The variables of task `node` of two nodes with one task each."""
    return {
        **{"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1"},
        **{"SLURM_NTASKS": str(NODES), "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": str(NODES)},
        **{"SLURM_PROCID": str(node), "SLURM_NODEID": str(node), "SLURM_LOCALID": "0"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }


def assert_trained_as_one_process(out):
    """Figures are those of one process with the batches of both."""
    arguments = [*DATA.split(), "batch.instances=8", *SMALL, "trainer.devices=1", "out=one"]
    assert main(arguments) == 0
    found, expected = (json.loads((Path(of) / "metrics.json").read_text()) for of in (out, "one"))
    for direction, of in expected["splits"]["test"]["directions"].items():
        metrics = found["splits"]["test"]["directions"][direction]["metrics"]
        assert metrics == pytest.approx(of["metrics"], abs=1e-3), direction
    assert found["best_validation"] == pytest.approx(expected["best_validation"], abs=1e-3)
    assert found["train"]["steps"] == expected["train"]["steps"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_torchrun_on_two_nodes(start, strategy):
    command = here(page_command("torchrun --nnodes"), "both")
    command = [word.replace("strategy=ddp", f"strategy={strategy}") for word in command]
    nodes = [start(command, node) for node in range(NODES)]
    for process, log in nodes:
        assert process.wait(timeout=900) == 0, log.read_text()
    assert_trained_as_one_process("both")


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_cards(start, strategy):
    command = here(page_command("mxmclr coco"), "both")
    cards = ["trainer.accelerator=gpu", "trainer.devices=2", f"trainer.strategy={strategy}"]
    process, log = start([*command, *cards, "out=both"], 0)
    assert process.wait(timeout=900) == 0, log.read_text()
    assert_trained_as_one_process("both")


@pytest.mark.slow
def test_srun_on_two_nodes(start):
    command = here(page_command("srun mxmclr coco"), "both")
    assert command[0] == "srun"
    nodes = [start(command[1:], node, **slurm(node, 12910)) for node in range(NODES)]
    for process, log in nodes:
        assert process.wait(timeout=900) == 0, log.read_text()
    assert_trained_as_one_process("both")


@pytest.mark.slow
def test_a_node_that_dies_ends_the_job_which_goes_on_with_one_process(start):
    command = [*here(page_command("torchrun --nnodes"), "both"), "trainer.max_steps=1000000"]
    (first, log), (second, _) = (start(command, node) for node in range(NODES))
    last = Path("both", "checkpoints", "last.ckpt")
    deadline = time.monotonic() + 900
    while not last.exists():
        assert first.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # torchrun on that node, and its worker.
    worker = subprocess.run(["pgrep", "-P", str(second.pid)], capture_output=True, text=True)
    for pid in [second.pid, *map(int, worker.stdout.split())]:
        os.kill(pid, signal.SIGKILL)
    assert first.wait(timeout=60) == 1, log.read_text()
    assert "error: another of the 2 processes has ended" in log.read_text()
    step = load_checkpoint(last)["global_step"]
    alone = ["trainer.devices=1", "trainer.num_nodes=1", "trainer.strategy=auto"]
    assert (
        main([*DATA.split(), "out=both", "ckpt=last", f"trainer.max_steps={step + 3}", *alone]) == 0
    )
    assert json.loads(Path("both", "metrics.json").read_text())["train"]["steps"] == step + 3


RAY = """
import os, subprocess, sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1)
environment = {**os.environ, "RAY_ADDRESS": cluster.address}
status = subprocess.run(sys.argv[1:], env=environment).returncode
cluster.shutdown()
sys.exit(status)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_a_comparison_on_a_ray_cluster():
    pytest.importorskip("ray")
    address, *command = shlex.split(page_command("RAY_ADDRESS="), comments=True)
    assert address == "RAY_ADDRESS=HOST:6379"
    small = ["data.classes=24", "data.captions=4", "data.samples=2", "batch.instances=6"]
    small += ["batch.repeats=1", "towers.voxel.widths=[4,8]", "trainer.accelerator=cpu"]
    small += ["losses=[mxmclr,clip]", "seeds=[0]", "trainer.max_steps=4", "out=compared"]
    done = subprocess.run(
        [sys.executable, "-c", RAY, *command, *small],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(Path("compared", "compare.json").read_text())
    assert record["runs"]
    assert not any(run.get("error") for run in record["runs"])
