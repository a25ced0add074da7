"""Values of text and path keys are taken as typed, not read by Hydra's grammar."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxmclr_plugin.experiment.config.check_config import check_data
from mxmclr_plugin.experiment.config.compose import load_config
from mxmclr_plugin.inference.changes import changed_config

TYPED = [
    *("my file.jsonl", "a,b", "[x]", "{a: 1}", "key=value", "'quoted'", '"q"', "it's", "50% off"),
    *("a\\'b", "back\\slash\\", "データ/é.jsonl", "#1", "x: y", "true", "12", "choice(a,b)", "~/x"),
    *("$HOME", "a&b;c", "(1)", "tab\there", "*", "@", "<x>", " edge "),
]


@pytest.mark.parametrize("text", TYPED)
def test_paths_as_typed(text):
    config = load_config("manifest", [f"data.path={text}", f"out={text}"])
    assert config.data["path"] == text
    assert config.out == (str(Path.home() / "x") if text == "~/x" else text)
    assert check_data("manifest", [f"root={text}"])["root"] == text
    assert changed_config(config, [f"data.root={text}"]).data["root"] == text


@settings(max_examples=25)
@given(st.text(min_size=1).filter(lambda text: text != "null" and "${" not in text))
def test_any_text(text):
    assert load_config("manifest", [f"data.path={text}"]).data["path"] == text


def test_null_and_other_types_are_read():
    overrides = ["data.path=x", "data.root=null", "data.size=48", "towers.text.name=bag_of_words"]
    config = load_config("manifest", overrides)
    assert config.data["root"] is None
    assert config.data["size"] == 48
