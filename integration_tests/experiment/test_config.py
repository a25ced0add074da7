import dataclasses
import inspect
import math
import typing

import pytest

from mxmclr_plugin.comparison.ablation import ablation_folder
from mxmclr_plugin.comparison.compare import comparison_folder
from mxmclr_plugin.comparison.config import AblationConfig, ComparisonConfig
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config.check_config import check_config
from mxmclr_plugin.experiment.config.compose import choices, compose_choice, load_config, tasks
from mxmclr_plugin.experiment.config.describe_config import describe
from mxmclr_plugin.experiment.resume import command_config
from mxmclr_plugin.experiment.run_folder.folder import RunFolder
from mxmclr_plugin.registry import DATASETS, LOSSES, TOWERS

ENTRIES = [
    (group, entry)
    for group, entry in (
        [("loss", entry) for entry in LOSSES]
        + [("data", entry) for entry in DATASETS]
        + [(f"towers/{entry.kind}", entry) for entry in TOWERS]
    )
    if entry.target.startswith("mxmclr_plugin.")  # other tests register their own
]


def default_of(parameter):
    return list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default


@pytest.mark.parametrize(("group", "entry"), ENTRIES, ids=lambda x: getattr(x, "name", x))
def test_every_registered_thing_can_be_chosen_with_the_defaults_of_its_signature(group, entry):
    assert entry.name in choices(group)
    parameters = inspect.signature(entry.load()).parameters.values()
    expected = {p.name: default_of(p) for p in parameters if p.default is not p.empty}
    chosen = compose_choice(group, entry.name)
    if group == "loss":
        assert chosen == {"_target_": entry.target}
        config = load_config("text2shape", [f"loss={entry.name}"])
        assert config.loss == {"name": entry.name, **expected}
    else:
        assert expected.items() <= chosen.items()
        assert chosen["name"] == entry.name


@pytest.mark.parametrize("entry", [entry for _, entry in ENTRIES], ids=lambda entry: entry.name)
def test_source_and_object_have_the_same_docstring_and_types(entry):
    """Entries are read from source text; here the imported object is asked instead."""
    thing = entry.load()
    doc = inspect.getdoc(thing)
    assert " ".join(doc.split("\n\n")[0].split()).rstrip(".").startswith(entry.summary[:20])
    function = thing.__init__ if inspect.isclass(thing) else thing
    hints = typing.get_type_hints(function, include_extras=True)
    for name, option in entry.options.items():
        if name in inspect.signature(thing).parameters:
            assert option.hint == hints[name]
        assert option.help, f"{entry.name}.{name} has no words in its docstring"


@pytest.mark.parametrize("task", tasks())
def test_every_task_composes(task):
    config = load_config(task)
    assert config.task == task
    assert config.summary
    # An automatic one leaves it open until the data are read.
    assert (config.trainer.max_steps is None) == config.automatic


def test_overrides():
    config = load_config(
        "text2shape",
        ["loss=ntxent", "loss.temperature=0.1", "trainer.max_steps=50", "seed=3", "out=x y"],
    )
    assert config.loss == {"name": "ntxent", "temperature": 0.1, "gather_distributed": None}
    assert config.loss_name == "ntxent"
    assert (config.trainer.max_steps, config.seed, config.out) == (50, 3, "x y")
    assert config.loss["temperature"] == 0.1


def test_choices():
    assert "mxmclr" in choices("loss")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.temprature=1"], r"unknown key 'loss.temprature': did you mean 'loss.temperature'"),
        (["loss=ntxent", "loss.soft_temperature=1"], r"unknown key 'loss.soft_temperature'"),
        (["losss=ntxent"], r"unknown key 'losss': did you mean 'loss'"),
        (["loss=ntxnet"], r"loss cannot be 'ntxnet': did you mean 'ntxent'"),
        (["towers/text=bow"], r"towers/text cannot be 'bow'.*known are .*bag_of_words"),
        (["towers/text@towers.txt=bag_of_words"], r"Could not override 'towers/text@towers.txt'"),
        (["trainer.max_step=3"], r"did you mean 'trainer.max_steps'"),
        (["trainer.max_steps=many"], r"trainer.max_steps: .*'many'"),
        (["loss.temperature=inf"], r"loss.temperature must be a finite number, got inf"),
        (["loss.soft_temperature=nan"], r"loss.soft_temperature must be a finite number, got nan"),
        (["loss.temperature=warm"], r"loss.temperature: .*'warm'"),
        (["+loss.extra=1"], r"loss.extra"),
        (["data.seed=[1,2]"], r"data.seed"),
        (["seed=1.5"], r"seed: .*1.5"),
        (["batch.folds.voxel=0"], r"batch.folds.voxel must be 1 or more"),
        (["seed"], r"cannot read seed"),
        (["teacher.text=clip"], "teacher.text.name: unknown tower 'clip': "),
        (["teacher.txt=tower"], "teacher.txt: there is no such tower, there are text, voxel"),
        (["teacher=tower"], "teacher: name a modality, teacher.MODALITY=tower"),
        (["teacher.text={shuffle: true}"], "teacher.text: it has no name"),
        (["teacher.text={name: tower, shuffle: 1}"], "teacher.text.shuffle is true or false"),
        (["teacher.text={name: tower, model: a}"], "the teacher tower has no options but shuffle"),
        (["teacher.text={name: sentence_transformer, dim: 8}"], "unknown key 'teacher.text.dim'"),
        (
            ["teacher.text=timm_model"],
            "teacher.text: timm_model encodes image, but 'text' is of the kind text",
        ),
        (["towers.vxel.dim=3"], r"unknown key 'towers.vxel': did you mean 'towers.voxel'"),
        (["batch.instances=null"], r"batch.instances must be 1 or more, got null"),
        (["trainer.max_steps=0"], r"trainer.max_steps must be 1 or more, got 0"),
        (
            ["directions.t2s=[text]"],
            r"set one by directions.t2s.query=",
        ),
        (["directions.t2s=[text,voxel]"], r"directions.t2s holds query, gallery"),
        (["+directions.x={query: text}"], r"directions.x must be {query: MODALITY, gallery"),
        (["directions.t2s.gallery=sound"], r"'sound', which has no tower"),
        (["directions.t2s.gallery=[voxel,sound]"], r"'sound', which has no tower"),
        (["directions.t2s.gallery=[]"], r"directions.t2s.gallery must be a modality or a list"),
        (["directions.t2s.gallery=3"], r"directions.t2s.gallery must be a modality or a list"),
    ],
)
def test_what_does_not_fit_is_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config("text2shape", overrides)


def test_unknown_task():
    with pytest.raises(ConfigError, match="unknown task 'text2shap': did you mean 'text2shape'"):
        load_config("text2shap")


def test_a_config_folder_of_the_user(tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "mine.yaml").write_text(
        "_target_: mxmclr_plugin.MultifoldHybridLoss\ntemperature: 0.3\n"
    )
    (tmp_path / "colours.yaml").write_text(
        "defaults:\n  - text2shape\n  - override loss: mine\n  - _self_\n"
        "summary: my task\nseed: 5\n"
    )
    config = load_config("colours", [], tmp_path)
    assert config.task == "colours"
    assert config.seed == 5
    assert config.loss["_target_"].endswith("MultifoldHybridLoss")
    assert config.loss_name == "MultifoldHybridLoss"
    assert load_config("text2shape", ["loss=mine"], tmp_path).loss["temperature"] == 0.3


def test_transformations_follow_the_runs_seed_and_a_drawn_split_does_not():
    config = load_config("flickr30k", ["seed=3"])
    assert (config.data["augment_seed"], config.data["seed"]) == (3, 0)
    assert config.data["augment_seed"] == 3
    assert load_config("coco", ["data.augment_seed=5"]).data["augment_seed"] == 5
    assert load_config("coco").eval.group_size == 1000


def test_captions_are_held_out():
    assert load_config("multi30k", ["eval.held_out_captions={en: 2}"]).eval.held_out_captions == {
        "en": 2
    }
    with pytest.raises(ConfigError, match=r"eval.held_out_captions.en must be 1 or more, got 0"):
        load_config("multi30k", ["eval.held_out_captions.en=0"])


def test_a_group_has_an_instance():
    with pytest.raises(ConfigError, match=r"eval\.group_size must be 1 or more, got 0"):
        load_config("coco", ["eval.group_size=0"])


def test_a_configuration_survives_being_written_down():
    config = load_config("text2shape", ["loss.temperature=0.1", "teacher.text=tower"])
    assert check_config(dataclasses.asdict(config)) == config


def test_every_key_is_described():
    described = {key.key: key for key in describe(load_config("multi30k", ["loss=siglip"]))}
    assert "siglip" in described["loss"].choices
    assert described["loss.bias"] == ("loss.bias", -10.0, (), "Bias at the start.")
    assert described["towers/text@towers.de"].default == "bag_of_words"
    assert described["towers.de.dim"].help == "Width of the vectors."
    assert described["optimizer.lr"].default == 0.03
    assert described["trainer.test_with"].help.startswith("Weights that are tested")
    assert all(key.help for key in described.values())


def test_the_home_folder_is_filled_in(tmp_path, monkeypatch):
    """In Python, and in a shell that leaves ``out=~/x`` as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config("text2shape", ["out=~/a", "ckpt=~/b/checkpoints/last.ckpt"])
    assert (config.out, config.ckpt) == (
        f"{tmp_path}/a",
        f"{tmp_path}/b/checkpoints/last.ckpt",
    )
    assert load_config("text2shape", ["ckpt=last"]).ckpt == "last"
    RunFolder(tmp_path / "a").write_config(load_config("text2shape", ["loss=clip"]))
    continued = command_config("text2shape", ["out=~/a", "ckpt=last"])
    assert (continued.out, continued.loss_name) == (f"{tmp_path}/a", "clip")
    assert comparison_folder("text2shape", ComparisonConfig(out="~/c")) == tmp_path / "c"
    ablation = AblationConfig(study="parts", out="~/c")
    assert ablation_folder("text2shape", ablation) == tmp_path / "c"


def test_no_option_of_a_class_is_nan():
    named = ["~loss", "+loss._target_=torch.nn.TripletMarginLoss"]
    assert load_config("text2shape", [*named, "+loss.margin=-inf"]).loss["margin"] == -math.inf
    with pytest.raises(ConfigError, match=r"loss\.margin must be a number, got nan"):
        load_config("text2shape", [*named, "+loss.margin=nan"])
