import subprocess
import sys
from importlib.metadata import entry_points

import lightly.loss
import pytest
import pytorch_metric_learning.losses

from mxmclr_plugin.integrations import lightly as for_lightly
from mxmclr_plugin.integrations import pytorch_metric_learning as for_metric_learning
from mxmclr_plugin.integrations.registration import register

PLACES = [
    (pytorch_metric_learning.losses, for_metric_learning.MultifoldHybridLoss),
    (lightly.loss, for_lightly.MultifoldHybridLoss),
]


@pytest.fixture(autouse=True)
def _not_registered():
    before = [vars(module).pop(loss.__name__, None) for module, loss in PLACES]
    yield
    for (module, loss), was in zip(PLACES, before, strict=True):
        vars(module).pop(loss.__name__, None)
        if was is not None:
            setattr(module, loss.__name__, was)


def test_pipelines_find_the_losses_by_name():
    for module, loss in PLACES:
        assert not hasattr(module, loss.__name__)
    register()
    for module, loss in PLACES:
        assert getattr(module, loss.__name__) is loss
    register()
    for module, loss in PLACES:
        assert getattr(module, loss.__name__) is loss


@pytest.mark.parametrize("taken", [0, 1])
def test_what_is_not_ours_is_left_as_it_is(taken):
    module, loss = PLACES[taken]
    theirs = type(loss.__name__, (), {})
    setattr(module, loss.__name__, theirs)
    with pytest.raises(RuntimeError, match=rf"{module.__name__}.{loss.__name__} exists already"):
        register()
    assert getattr(module, loss.__name__) is theirs
    other_module, other_loss = PLACES[1 - taken]
    assert not hasattr(other_module, other_loss.__name__)


def test_importing_it_imports_no_host_library():
    code = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('registration', sys.argv[1])\n"
        "spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
        "print([m for m in ('lightly', 'pytorch_metric_learning', 'torch') if m in sys.modules])"
    )
    path = sys.modules[register.__module__].__file__
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_loss_imports_no_other_library_until_it_needs_it():
    code = (
        "import sys, torch, mxmclr_plugin.loss.multifold_hybrid as ours, mxmclr_plugin.loss\n"
        "import mxmclr_plugin.loss.distributed.loss, mxmclr_plugin.benchmark.variants\n"
        "ours.MultifoldHybridLoss()(torch.randn(4, 8), torch.randn(4, 8)).item()\n"
        "hosts = 'lightly', 'pytorch_metric_learning', 'sentence_transformers'\n"
        "print([m for m in hosts if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(("module", "loss"), PLACES)
def test_entry_points_lead_to_the_losses(module, loss):
    points = entry_points(group=module.__name__, name=loss.__name__)
    if not points:
        pytest.skip("the installed distribution was built without entry points; install it anew")
    (point,) = points
    assert point.load() is loss
