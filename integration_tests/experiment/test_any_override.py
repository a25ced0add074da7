"""Any override of any key either composes or is refused in one line."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mxmclr_plugin.arguments import written
from mxmclr_plugin.errors import ConfigError, build_part
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.experiment.config.describe_config import describe
from mxmclr_plugin.experiment.machine import check_machine
from mxmclr_plugin.loss.registry import build_loss
from mxmclr_plugin.registry import LOSSES

TASKS = ("text2shape", "manifest")
KEYS = [
    (task, (), key.key, key.default) for task in TASKS for key in describe(load_config(task))
] + [
    ("text2shape", (f"loss={entry.name}",), f"loss.{option.name}", option.default)
    for entry in LOSSES
    for option in entry.options.values()
    if entry.target.startswith("mxmclr_plugin.")
]
EDGES = [0, -1, 1, 2, 0.0, -0.5, 1.5, 1e-30, 1e30, 2**31, 2**32, 2**63, 10**30]
WORDS = ["null", "true", "nan", "inf", "-inf", "''", "auto", "x", "[]", "{}", "[0]", "[-1,x]"]
VALUES = st.one_of(
    st.sampled_from(EDGES).map(str),
    st.sampled_from(WORDS),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=8),
    st.lists(st.integers(-2, 9), max_size=3).map(lambda items: written(items, True)),
    st.dictionaries(st.sampled_from("ab"), st.integers(-2, 9), max_size=2).map(written),
)


def checked(task, overrides):
    """All that is checked before data are read."""
    config = load_config(task, overrides)
    check_machine(config.trainer)
    build_part("loss", build_loss, config.loss)


def refused_in_a_line(chosen, value):
    task, choice, key, _ = chosen
    try:
        checked(task, [*choice, f"{key}={value}"])
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.slow  # several minutes
@settings(
    max_examples=500,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(st.sampled_from(KEYS), VALUES)
@example(("text2shape", (), "towers", None), "x")
def test_no_override_ends_in_a_traceback(chosen, value):
    refused_in_a_line(chosen, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch.instances", "0"),
        ("batch.instances", "1"),
        ("trainer.loggers", "tensorboard"),
        ("batch.repeats", "0"),
        ("batch.workers", "-1"),
        ("batch.folds.text", "0"),
        ("trainer.max_steps", "0"),
        ("trainer.eval_batch", "0"),
        ("trainer.validate_every", "0"),
        ("trainer.patience", "-1"),
        ("trainer.log_every", "0"),
        ("trainer.devices", "0"),
        ("trainer.devices", "x"),
        ("trainer.num_nodes", "0"),
        ("trainer.accelerator", "warp"),
        ("trainer.strategy", "warp"),
        ("trainer.precision", "7"),
        ("trainer.test_with", "first"),
        ("optimizer.lr", "-1"),
        ("optimizer.lr", "nan"),
        ("optimizer.lr", "inf"),
        ("optimizer.weight_decay", "-1"),
        ("optimizer.warmup", "-0.1"),
        ("optimizer.warmup", "1.1"),
        ("optimizer.clip", "0"),
        ("eval.ks", "[]"),
        ("eval.ks", "[0]"),
        ("eval.ndcg_at", "0"),
        ("eval.group_size", "0"),
        ("seed", "-1"),
        ("seed", str(2**32)),
        ("loss.temperature", "0"),
    ],
)
def test_values_out_of_range_name_their_key(key, value):
    message = refused_in_a_line(("text2shape", (), key, None), value)
    assert message is not None
    assert key.rpartition(".")[2] in message


@pytest.mark.parametrize(
    ("loss", "option"),
    [
        ("dcl", "temperature"),
        ("ntxent", "temperature"),
        ("pml_ntxent", "temperature"),
        ("supcon", "temperature"),
        ("multi_similarity", "alpha"),
        ("triplet", "margin"),
    ],
)
def test_options_of_losses_have_bounds(loss, option):
    with pytest.raises(ConfigError, match=rf"loss\.{option} must be"):
        load_config("text2shape", [f"loss={loss}", f"loss.{option}=-1"])
