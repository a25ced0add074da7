"""Somebody else's run folder: nothing of it is executed, expanded or resolved."""

import json
import pickle

import pytest
import yaml

from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.check_config import check_config
from mxmclr_plugin.inference.run import load_run
from mxmclr_plugin.models.sentence_transformer import load_sentence_transformer
from mxmclr_plugin.run.command_line import main

CODE = "import pathlib\npathlib.Path({!r}).touch()\nclass Loss:\n    pass\n"


def config(**changed):
    import dataclasses

    from mxmclr_plugin.experiment.config.compose import load_config

    return {**dataclasses.asdict(load_config("text2shape")), **changed}


@pytest.fixture
def run(tmp_path):
    """A run folder with a configuration, and whether code beside it was imported."""
    touched = tmp_path / "touched"
    (tmp_path / "hostile_loss.py").write_text(CODE.format(str(touched)))

    def run(content):
        (tmp_path / "config.yaml").write_text(
            content if isinstance(content, str) else yaml.safe_dump(content)
        )
        return tmp_path

    run.touched = touched
    return run


@pytest.mark.parametrize(
    "loss",
    [
        {"_target_": "hostile_loss.Loss"},
        {"class_path": "os.system"},
        {"name": "mxmclr", "inner": [{"_target_": "builtins.eval"}]},
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "search", "export"])
def test_code_that_is_not_registered_is_refused(run, monkeypatch, capsys, command, loss):
    folder = run(config(loss=loss))
    monkeypatch.syspath_prepend(str(folder))
    words = ["a red cone"] if command == "search" else []
    extra = [f"out={folder / 'out'}"] if command == "export" else []
    assert main([command, *words, f"ckpt={folder}", *extra]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "which is not registered and was not imported" in error
    assert "trust=true" in error
    assert not run.touched.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"loss": {"_target_": "hostile_loss.Loss"}},
        {"overrides": ["loss._target_=hostile_loss.Loss"]},
        {"overrides": ["+loss={'_target_': 'hostile_loss.Loss'}"]},
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_training_goes_on_from_no_folder_that_names_code(
    run, monkeypatch, capsys, tmp_path, content, last
):
    folder = run(config(**content))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"")
    monkeypatch.syspath_prepend(str(folder))
    where = [f"out={folder}", "ckpt=last"]
    if not last:
        where = [f"out={tmp_path / 'new'}", f"ckpt={folder / 'checkpoints' / 'last.ckpt'}"]
    assert main(["text2shape", *where]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "_target_=hostile_loss.Loss, which is not registered" in error
    assert "_target_=hostile_loss.Loss" in error.partition("if you trust this folder, add ")[2]
    assert not run.touched.exists()


def test_training_goes_on_with_code_that_the_command_names(run, monkeypatch):
    from mxmclr_plugin.experiment.resume import command_config

    folder = run(config(loss={"_target_": "hostile_loss.Loss"}))
    monkeypatch.syspath_prepend(str(folder))
    named = "loss._target_=hostile_loss.Loss"
    found = command_config("text2shape", [f"out={folder}", "ckpt=last", named])
    assert found.loss["_target_"] == "hostile_loss.Loss"


def test_trust_goes_on_to_the_checkpoint(run):
    folder = run(config(loss={"_target_": "hostile_loss.Loss"}))
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        load_run(folder, trust=True)


def test_registered_losses_may_be_named_by_their_path(run):
    target = "mxmclr_plugin.loss.baselines.clip.ClipLoss"
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        load_run(run(config(loss={"_target_": target})))


def test_variables_of_the_environment_are_not_resolved(run, monkeypatch, capsys):
    monkeypatch.setenv("SECRET", "sesame")
    folder = run(config(out="${oc.env:SECRET}", summary="\\${oc.env:SECRET}"))
    assert main(["evaluate", f"ckpt={folder}"]) == 2
    assert "sesame" not in "".join(capsys.readouterr())
    checked = check_config(config(out="${oc.env:SECRET}", summary="a\\${oc.env:SECRET}"))
    assert (checked.out, checked.summary) == ("${oc.env:SECRET}", "a\\${oc.env:SECRET}")


def test_aliases_do_not_unfold(run, capsys):
    aliases = "\n".join(f"l{k}: &l{k} [{', '.join([f'*l{k - 1}'] * 9)}]" for k in range(1, 9))
    assert main(["evaluate", f"ckpt={run('l0: &l0 [x]' + chr(10) + aliases)}"]) == 2
    assert "holds more than 50000 values" in " ".join(capsys.readouterr().err.split())


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", ["code", "pickle"])
def test_a_sentence_transformer_with_code_or_a_pickle_is_refused_in_a_line(tmp_path, kind):
    touched = tmp_path / "touched"
    folder = tmp_path / "model"
    folder.mkdir()
    own = kind == "code"
    module = "hostile.Module" if own else "sentence_transformers.models.Transformer"
    (folder / "hostile.py").write_text(CODE.format(str(touched)).replace("Loss", "Module"))
    (folder / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": module}])
    )
    bert = {"model_type": "bert", "hidden_size": 4, "num_hidden_layers": 1, "vocab_size": 5}
    bert |= {"num_attention_heads": 1, "intermediate_size": 4, "architectures": ["BertModel"]}
    (folder / "config.json").write_text(json.dumps(bert))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Touch(touched)}))
    with pytest.raises(ValueError, match="holds no SentenceTransformer") as caught:
        load_sentence_transformer(str(folder))
    assert "\n" not in str(caught.value)
    assert not touched.exists()
