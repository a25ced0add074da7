import time

import pytest

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.experiment.run_folder.curves import Curve, read_curve
from mxmclr_plugin.experiment.run_folder.curves_file import CurvesLogger
from mxmclr_plugin.experiment.training.loggers import build_loggers
from mxmclr_plugin.run.command_line import main

SMALL = [
    "data.classes=24",
    "data.captions=2",
    "data.samples=1",
    "data.resolution=24",
    "batch.instances=8",
    "towers.voxel.widths=[4,8]",
    "trainer.max_steps=2",
    "trainer.log_every=1",
]


def test_curves_are_always_written(tmp_path):
    (only,) = build_loggers([], tmp_path)
    assert isinstance(only, CurvesLogger)
    assert only.path == tmp_path / "curves" / "metrics.csv"


def test_a_damaged_file_of_curves(tmp_path):
    file = tmp_path / "curves" / "metrics.csv"
    file.parent.mkdir()
    good = b"loss,step\n3,0\n2,1\n"
    file.write_bytes(good + b"\xff\xfe,\xe9\n")
    with pytest.raises(ConfigError, match=r"metrics\.csv, line 4: could not convert"):
        read_curve(tmp_path, "loss")
    file.write_bytes(good + b'"' + b"x" * 200_000 + b'"\n')
    with pytest.raises(ConfigError, match=r"metrics\.csv, line 3: field larger"):
        read_curve(tmp_path, "loss")
    for damage in (b"\0" * 512, b'"' + b"x" * 200_000 + b'"\n'):  # as after a loss of power
        file.write_bytes(good + damage)
        CurvesLogger(file, step=2).log_metrics({"loss": 1.0}, 2)
        assert read_curve(tmp_path, "loss") == Curve([0, 1, 2], [3, 2, 1])


def test_an_unknown_logger_is_named():
    with pytest.raises(ConfigError, match=r"csv, tensorboard or wandb, got 'tensorbord'"):
        load_config("text2shape", ["trainer.loggers=[tensorbord]"])


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_names_the_extra_before_anything_runs(
    tmp_path, capsys, monkeypatch, name
):
    monkeypatch.setattr("mxmclr_plugin.experiment.training.loggers.find_spec", lambda _: None)
    out = tmp_path / "run"
    assert main(["text2shape", *SMALL, f"trainer.loggers=[csv,{name}]", f"out={out}"]) == 2
    assert f"pip install 'mxmclr-plugin[{name}]'" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_tensorboard_reads_what_the_csv_file_has(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    from mxmclr_plugin.experiment.run_folder.curves import read_curve

    out = tmp_path / "run"
    assert main(["text2shape", *SMALL, "trainer.loggers=[tensorboard]", f"out={out}"]) == 0
    events = accumulator.EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    read = events.Scalars("val/mean_recall")
    curve = read_curve(out, "val/mean_recall")
    assert [event.step for event in read] == curve.steps
    assert [event.value for event in read] == pytest.approx(curve.values)


def test_tensorboard_has_no_step_twice_after_a_resumption(tmp_path):
    """Killed after step 5, it continues from a checkpoint at step 3."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    for first, last in ((0, 5), (3, 7)):
        _, logger = build_loggers(["tensorboard"], tmp_path, first)
        for step in range(first, last):
            logger.log_metrics({"train/loss": float(10 * first + step)}, step)
            logger.log_metrics({"train/loss": float(10 * first + step)}, step)  # saved in between
        logger.finalize("success")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert found == [(0, 0), (1, 1), (2, 2), (3, 33), (4, 34), (5, 35), (6, 36)]


def test_a_resumed_run_continues_its_wandb_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    ids = []
    for step in (0, 3, 0, 5):  # The second run began anew: it had no checkpoint.
        _, logger = build_loggers(["wandb"], tmp_path, step)
        logger.log_metrics({"train/loss": 1.0}, step)
        ids.append(logger.version)
        logger.experiment.finish()
        time.sleep(1.1)  # Times in names are in seconds.
    assert ids[0] == ids[1] != ids[2] == ids[3]


def test_wandb_offline_writes_to_the_folder_of_the_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "run"
    assert main(["text2shape", *SMALL, "trainer.loggers=[wandb]", f"out={out}"]) == 0
    assert (out / "curves" / "metrics.csv").is_file()
    assert list((out / "wandb").glob("offline-run-*/run-*.wandb"))
