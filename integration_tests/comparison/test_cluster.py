"""Runs of a comparison as tasks of Ray and as jobs of submitit."""

import json
import os
import subprocess
import sys

import pytest
from comparison.test_launcher import MISSING, SLICE, console, planned

from mxmclr_plugin.comparison.config import ComparisonConfig
from mxmclr_plugin.comparison.launcher import launch
from mxmclr_plugin.errors import ConfigError

KILLED_NODE = """
import json, os, pathlib, sys, threading, time
import ray
from ray.cluster_utils import Cluster
from rich.console import Console
from mxmclr_plugin.comparison.config import ComparisonConfig
from mxmclr_plugin.comparison.launcher import launch
from mxmclr_plugin.comparison.planned_run import plan_run

folder, slice_ = pathlib.Path(sys.argv[1]), sys.argv[2:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
os.environ["RAY_ADDRESS"] = cluster.address
ray.init(cluster.address, log_to_driver=False)
runs = [plan_run("text2shape", [*slice_, f"seed={seed}"], folder, "run") for seed in range(3)]

def running():
    saved = [run.folder for run in runs if (run.folder / "checkpoints/last.ckpt").exists()]
    return [folder for folder in saved if not (folder / "metrics.json").exists()]

def kill():
    while len(running()) < 2:
        time.sleep(0.05)
    cluster.remove_node(nodes[0], allow_graceful=False)

killer = threading.Thread(target=kill)
killer.start()
outcomes = launch(runs, ComparisonConfig(launcher="ray"), Console(file=sys.stderr), "runs")
killer.join()
print(json.dumps([outcomes[run].error for run in runs]))
"""


def same_metrics(folder, other):
    found = [json.loads((of / "metrics.json").read_text())["splits"] for of in (folder, other)]
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_whose_ray_node_dies_goes_on_elsewhere(tmp_path):
    pytest.importorskip("ray")
    options = [*SLICE, "trainer.max_steps=200", "trainer.checkpoint_every_steps=5"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_NODE, str(tmp_path), *options],
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.strip().splitlines()[-1]) == [None, None, None]
    logs = [folder.read_text() for folder in tmp_path.glob("run-*/log.txt")]
    assert len(logs) == 3
    # The one whose node died has two beginnings and one end.
    assert sorted(log.count("batch     6 instances") for log in logs) == [1, 1, 2]
    assert [log.count("metrics.json") for log in logs] == [1, 1, 1]
    whole = planned(tmp_path / "whole", *options[len(SLICE) :], "seed=0")
    assert launch([whole], ComparisonConfig(jobs=1), console(), "runs")[whole].error is None
    (same,) = [folder for folder in tmp_path.glob("run-*") if folder.name == whole.folder.name]
    same_metrics(same, whole.folder)


@pytest.mark.slow
def test_runs_as_submitit_jobs(tmp_path):
    submitit = pytest.importorskip("submitit")
    assert submitit.AutoExecutor(tmp_path / "probe").cluster == "local"
    runs = [planned(tmp_path, f"seed={seed}") for seed in range(2)]
    bad = planned(tmp_path, *MISSING)
    config = ComparisonConfig(launcher="slurm", resources={"timeout_min": 5})
    outcomes = launch([*runs, bad], config, console(), "runs")
    assert [outcomes[run].error for run in runs] == [None, None]
    assert "./missing" in outcomes[bad].error
    whole = planned(tmp_path / "whole", "seed=0")
    launch([whole], ComparisonConfig(jobs=1), console(), "runs")
    same_metrics(runs[0].folder, whole.folder)


def test_options_that_a_cluster_does_not_know(tmp_path):
    pytest.importorskip("submitit")
    for config, words in (
        (ComparisonConfig(resources={"num_gpus": 1}), "resources: num_gpus need launcher=ray"),
        (ComparisonConfig(launcher="slurm", resources={"timeout": 1}), "resources: .*timeout"),
    ):
        with pytest.raises(ConfigError, match=words):
            launch([planned(tmp_path)], config, console(), "runs")


@pytest.mark.parametrize(("launcher", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_launcher_that_is_not_installed(tmp_path, monkeypatch, launcher, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"launcher={launcher} needs {package}, .*pip install"):
        launch([planned(tmp_path)], ComparisonConfig(launcher=launcher), console(), "runs")
