"""Nothing is fetched, nothing is written to the user's cache."""

import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports what reads them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Test processes share the cores; threads that wait for each other cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Processes are forks of one server, which starts once and imports what takes long.
multiprocessing.set_forkserver_preload(["mxmclr_plugin.experiment.train", "sentence_transformers"])
# Examples follow from one seed, however busy the machine is, and from the constants of the modules
# that a worker has imported, which Hypothesis tries. `--hypothesis-profile=search` looks for
# examples that have not been tried.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", untimed)
settings.register_profile("repeatable", untimed, derandomize=True)
settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    import torch  # reads OMP_NUM_THREADS

    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    os.environ["MXMCLR_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of the real data; tests that need it are skipped where it is not there."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MXMCLR_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no real data: set MXMCLR_TEST_DATA to its folder")
    return folder
