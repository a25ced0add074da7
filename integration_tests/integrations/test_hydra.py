"""Hydra applications that know nothing of this package take its losses by name."""

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mxmclr_plugin.experiment.config.compose import choices

ROOT = Path(__file__).parents[2]
APPLICATION = """\
import hydra
from hydra.utils import instantiate


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    print(type(instantiate(cfg.loss)).__name__, dict(cfg.loss))


main()
"""


@pytest.fixture
def application(tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    conf = tmp_path / "conf"
    (conf / "loss").mkdir(parents=True)
    (conf / "config.yaml").write_text("defaults:\n  - loss: mxmclr\n  - _self_\n")
    (conf / "loss" / "theirs.yaml").write_text("_target_: torch.nn.MSELoss\n")
    (conf / "loss" / "clip.yaml").write_text("_target_: torch.nn.L1Loss\n")

    def run(*overrides, path=""):
        done = subprocess.run(
            [sys.executable, *(["-S"] if path else []), "app.py", *overrides],
            cwd=tmp_path,
            env={"PYTHONPATH": path, "HYDRA_FULL_ERROR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_loss_is_found_by_its_name_beside_the_applications_own(application):
    target = "mxmclr_plugin.loss.multifold_hybrid.MultifoldHybridLoss"
    assert application() == f"MultifoldHybridLoss {{'_target_': '{target}'}}\n"
    assert "'temperature': 0.2" in application("+loss.temperature=0.2")
    assert application("loss=theirs").startswith("MSELoss")
    # The application's own come first.
    assert application("loss=clip").startswith("L1Loss")


def test_every_loss_of_the_runner_is_one_of_hydra(application):
    assert set(choices("loss")) == {f.stem for f in (ROOT / "plugin_configs/loss").glob("*.yaml")}
    assert application("loss=siglip").startswith("SigmoidLoss")


@pytest.mark.slow
def test_a_built_wheel_has_it_too(application, tmp_path):
    if not importlib.util.find_spec("hatchling"):
        pytest.skip("hatchling is not installed: pip install mxmclr-plugin[test]")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("mxmclr_plugin", "plugin_configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*pip, "wheel", *options, "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", *options, "--target", tmp_path / "site", wheel], check=True)
    # -S leaves out the editable installation; what else is needed is named one by one.
    others = [Path(path) for path in sys.path if path.endswith("site-packages")]
    path = ":".join(map(str, [tmp_path / "site", *others, sysconfig.get_paths()["stdlib"]]))
    assert application(path=path).startswith("MultifoldHybridLoss")
