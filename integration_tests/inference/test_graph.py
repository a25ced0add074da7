import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from mxmclr_plugin.inference.graph import (
    export_graph,
    export_onnx,
    run_onnx,
    save_graph,
    why_no_onnx,
)
from mxmclr_plugin.models.registry import build_tower
from mxmclr_plugin.models.tower import Tower

BYTES = {"image": (3, 16, 16), "views": (3, 3, 16, 16), "voxel": (4, 8, 8, 8)}
FLOATS = {"points": (20, 3), "strokes": (16, 4), "features": (6,), **BYTES}

CASES = [
    ("voxel", {"name": "light_cnn3d", "widths": [4, 8]}, False),
    ("voxel", {"name": "light_cnn3d", "widths": [4, 8]}, True),
    ("image", {"name": "light_cnn2d", "widths": [4, 8]}, False),
    ("image", {"name": "light_cnn2d", "widths": [4, 8]}, True),
    ("views", {"name": "multi_view", "pooling": "attention"}, False),
    ("points", {"name": "point_net", "widths": [8]}, True),
    ("strokes", {"name": "stroke_cnn", "widths": [8, 8]}, True),
    ("features", {"name": "features"}, True),
    pytest.param("voxel", {"name": "video_model"}, False, marks=pytest.mark.slow),
    pytest.param("image", {"name": "torchvision_model"}, False, marks=pytest.mark.slow),
]


def records(kind, rows, floats):
    generator = torch.Generator().manual_seed(rows)
    if floats:
        return torch.rand(rows, *FLOATS[kind], generator=generator)
    return torch.randint(0, 256, (rows, *BYTES[kind]), generator=generator).to(torch.uint8)


def trained_tower(kind, spec, floats):
    """With running means and biases that are not those of a fresh one."""
    torch.manual_seed(0)
    tower = build_tower(spec, records(kind, 2, floats))
    with torch.no_grad():
        for row in range(3):
            tower.train()(records(kind, 5 + row, floats))
        for parameter in tower.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return tower.eval()


@pytest.mark.parametrize(("kind", "spec", "floats"), CASES)
def test_any_number_of_rows(kind, spec, floats, tmp_path):
    tower = trained_tower(kind, spec, floats)
    program = export_graph(tower, records(kind, 2, floats))
    save_graph(program, tmp_path / "tower.pt2")
    module = torch.export.load(tmp_path / "tower.pt2").module()
    for rows in (1, 2, 5):
        some = records(kind, rows, floats)
        with torch.no_grad():
            torch.testing.assert_close(module(some), tower(some), rtol=0, atol=1e-5)
    if why_no_onnx():
        pytest.skip(f"no ONNX, all else was tested: {why_no_onnx()}")
    export_onnx(program, tmp_path / "tower.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(tmp_path / "tower.onnx"), providers=["CPUExecutionProvider"]
    )
    for rows in (1, 2, 5):
        some = records(kind, rows, floats)
        (z,) = session.run(["z"], {"observations": some.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(z, tower(some).numpy(), rtol=0, atol=1e-5)
        np.testing.assert_array_equal(run_onnx(tmp_path / "tower.onnx", some).numpy(), z)


def test_the_file_needs_nothing_of_this_package(tmp_path):
    tower = trained_tower("voxel", {"name": "light_cnn3d", "widths": [4, 8]}, False)
    save_graph(export_graph(tower, records("voxel", 2, False)), tmp_path / "tower.pt2")
    script = (
        "import sys, torch\n"
        f"m = torch.export.load({str(tmp_path / 'tower.pt2')!r}).module()\n"
        "print(tuple(m(torch.zeros(3, 4, 8, 8, 8, dtype=torch.uint8)).shape))\n"
        "assert not any('mxmclr' in name for name in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(3, 128)"


class Branching(nn.Module):
    out_features = 2

    def forward(self, observations):
        return observations[:, :2] if observations.sum() > 0 else observations[:, 1:3]


def test_a_tower_that_cannot_be_written_down():
    with pytest.raises(ValueError, match=r"torch\.export cannot write the tower down"):
        export_graph(Tower(Branching(), dim=3).eval(), torch.rand(2, 4))


def test_values_are_still_checked_outside_an_export():
    tower = build_tower({"name": "features"}, records("features", 2, True)).eval()
    export_graph(tower, records("features", 2, True))
    with pytest.raises(ValueError, match="finite"):
        tower(torch.full((2, 6), float("nan")))
    voxel = build_tower({"name": "light_cnn3d", "widths": [2]}).eval()
    with pytest.raises(ValueError, match=r"float in 0\.\.1"):
        voxel(torch.full((2, 4, 8, 8, 8), 255.0))
