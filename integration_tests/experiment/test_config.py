import pytest
import yaml

from mxmclr_plugin import list_losses
from mxmclr_plugin.data.registry import DATASETS
from mxmclr_plugin.errors import ConfigError
from mxmclr_plugin.experiment.config import CONFIGS, choices, load_config, tasks
from mxmclr_plugin.models.registry import list_towers
from mxmclr_plugin.registry import options

ENTRIES = (
    [("loss", entry) for entry in list_losses()]
    + [("data", entry) for entry in DATASETS]
    + [(f"towers/{entry.kind}", entry) for entry in list_towers()]
)


@pytest.mark.parametrize(("group", "entry"), ENTRIES, ids=lambda x: getattr(x, "name", x))
def test_every_registered_thing_has_a_file_with_its_defaults(group, entry):
    written = yaml.safe_load((CONFIGS / group / f"{entry.name}.yaml").read_text())
    defaults = {
        name: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for name, parameter in options(entry.build).items()
    }
    assert written == {"name": entry.name, **defaults}


@pytest.mark.parametrize("task", tasks())
def test_every_task_composes(task):
    config, plain = load_config(task)
    assert config.task == task
    assert config.summary
    # An automatic one leaves it open until the data are read.
    assert plain["trainer"]["max_steps"] == (None if config.automatic else config.trainer.max_steps)


def test_overrides():
    config, plain = load_config(
        "text2shape",
        ["loss=ntxent", "loss.temperature=0.1", "trainer.max_steps=50", "seed=3", "out=x y"],
    )
    assert config.loss == {"name": "ntxent", "temperature": 0.1, "gather_distributed": False}
    assert config.loss_name == "ntxent"
    assert (config.trainer.max_steps, config.seed, config.out) == (50, 3, "x y")
    assert plain["loss"]["temperature"] == 0.1


@pytest.mark.parametrize("info", list_losses(), ids=lambda info: info.name)
def test_every_loss_can_be_chosen(info):
    assert load_config("text2shape", [f"loss={info.name}"])[0].loss["name"] == info.name


def test_choices():
    assert "mxmclr" in choices("loss")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.temprature=1"], r"unknown key 'loss.temprature': did you mean 'loss.temperature'"),
        (["loss=ntxent", "loss.soft_temperature=1"], r"unknown key 'loss.soft_temperature'"),
        (["losss=ntxent"], r"unknown key 'losss': did you mean 'loss'"),
        (["loss=ntxnet"], r"loss cannot be 'ntxnet': did you mean 'ntxent'"),
        (["towers/text=bow"], r"towers/text cannot be 'bow'.*it can be .*bag_of_words"),
        (["trainer.max_step=3"], r"did you mean 'trainer.max_steps'"),
        (["trainer.max_steps=many"], r"trainer.max_steps: .*'many'"),
        (["loss.temperature=warm"], r"loss.temperature: .*'warm'"),
        (["+loss.extra=1"], r"loss.extra"),
        (["data.seed=[1,2]"], r"data.seed"),
        (["seed=1.5"], r"seed: .*1.5"),
        (["batch.folds.voxel=0"], r"batch.folds.voxel must be 1 or more"),
        (["seed"], r"cannot read seed"),
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


def test_a_folder_of_ones_own(tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "mine.yaml").write_text(
        "_target_: mxmclr_plugin.MultifoldHybridLoss\ntemperature: 0.3\n"
    )
    (tmp_path / "colours.yaml").write_text(
        "defaults:\n  - text2shape\n  - override loss: mine\n  - _self_\n"
        "summary: my task\nseed: 5\n"
    )
    config, _ = load_config("colours", [], tmp_path)
    assert config.task == "colours"
    assert config.seed == 5
    assert config.loss["_target_"].endswith("MultifoldHybridLoss")
    assert config.loss_name == "MultifoldHybridLoss"
    assert load_config("text2shape", ["loss=mine"], tmp_path)[0].loss["temperature"] == 0.3


def test_transformations_follow_the_runs_seed_and_a_drawn_split_does_not():
    config, plain = load_config("flickr30k", ["seed=3"])
    assert (config.data["augment_seed"], config.data["seed"]) == (3, 0)
    assert plain["data"]["augment_seed"] == 3
    assert load_config("coco", ["data.augment_seed=5"])[0].data["augment_seed"] == 5
    assert load_config("coco")[0].eval.group_size == 1000


def test_a_group_has_an_instance():
    with pytest.raises(ConfigError, match=r"eval\.group_size must be 1 or more, got 0"):
        load_config("coco", ["eval.group_size=0"])
