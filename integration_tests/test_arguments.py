from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mxmclr_plugin.arguments import WORD, help_rows, is_text, parse_arguments, usage
from mxmclr_plugin.errors import ConfigError


@dataclass
class Grid:
    """Values.

    Attributes:
        lr: Learning rates.
    """

    lr: list[float] = field(default_factory=lambda: [1.0])


@dataclass
class Sample:
    """Arguments of a test.

    Attributes:
        query: Some
            words.
        out: New ``file``.
        k: Number.
        share: Share.
        fast: Whether.
        kind: Sort.
        title: Text.
        names: Names.
        grid: Values.
        options: Overrides by name.
        evaluate: Lists by name.
    """

    query: str = field(metadata=WORD)
    out: Path
    k: int = 5
    share: float | None = None
    fast: bool = False
    kind: Literal["red", "green"] = "red"
    title: str | None = None
    names: list[str] = field(default_factory=list)
    grid: Grid = field(default_factory=Grid)
    options: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, list[str]] = field(default_factory=dict)


def parse(*arguments, **kwargs):
    return parse_arguments("try", Sample, ["words", "out=x", *arguments], **kwargs)


def test_values_of_every_type():
    sample, further = parse(
        *("k=7", "share=0.5", "fast=true", "kind=green", "names=[a, b]", "grid.lr=1,2e-1"),
        *("options.clip.loss.temperature=0.5", "evaluate.tables=[data.category=table,data.x=1]"),
    )
    assert sample == Sample(
        *("words", Path("x"), 7, 0.5, True, "green", None, ["a", "b"], Grid([1.0, 0.2])),
        {"clip": {"loss": {"temperature": 0.5}}},
        {"tables": ["data.category=table", "data.x=1"]},
    )
    assert further == []


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        *((hint, True) for hint in (str, Path, str | None, str | Path | None)),
        *(
            (hint, False)
            for hint in (int, int | None, list[str], dict[str, str], Any, Literal["a"])
        ),
    ],
)
def test_which_types_are_text(hint, expected):
    assert is_text(hint) == expected


def test_commas_inside_brackets_do_not_separate_items():
    parsed, _ = parse(
        "evaluate.x=[data.root=a,directions={a2b: {query: a, gallery: [b, c]}},seed=1]"
    )
    directions = "directions={a2b: {query: a, gallery: [b, c]}}"
    assert parsed.evaluate == {"x": ["data.root=a", directions, "seed=1"]}


def test_null_is_none_only_where_none_is_allowed():
    assert parse("share=null", "title=null")[0].title is None
    with pytest.raises(ConfigError, match="k must be a whole number, got 'null'"):
        parse("k=null")


@given(st.text().filter(lambda text: text != "null"))
@example("~")
@example("~/photos")
def test_text_and_paths_are_taken_as_typed(text):
    # Commas, brackets, quotes, `=`, `${...}`, spaces, any script.
    sample, _ = parse(f"title={text}", f"out=./{text}")
    assert sample.title == text
    assert sample.out.absolute() == Path(f"./{text}").absolute()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kk=1"], "try has no key 'kk': did you mean 'k'"),
        (["k=1.5"], "k must be a whole number, got '1.5'"),
        (["share=much"], "share must be a number, got 'much'"),
        (["fast=maybe"], "fast must be true or false, got 'maybe'"),
        (["kind=gren"], "kind cannot be 'gren': did you mean 'green'"),
        (["grid=1"], "grid has keys of its own: grid.lr"),
        (["grid.rl=1"], "unknown key 'grid.rl': did you mean 'lr'"),
        (["k.x=1"], "k has no keys of its own"),
        (["more words"], "takes QUERY and key=value alone, got 'more words'"),
        (["seed=1"], "try sets seed itself: write seeds="),
    ],
)
def test_mistakes_name_key_and_remedy(arguments, message):
    with pytest.raises(ConfigError) as caught:
        parse(*arguments, instead={"seed": "write seeds="})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_explained():
    with pytest.raises(ConfigError, match=r"try needs QUERY: Some words\."):
        parse_arguments("try", Sample, ["out=x"])
    with pytest.raises(ConfigError, match=r"try needs out=OUT: New file\."):
        parse_arguments("try", Sample, ["words"])


@dataclass
class Word:
    """A command with a word.

    Attributes:
        path: A path.
        k: A number.
    """

    path: str = field(metadata=WORD)
    k: int = 5


@pytest.mark.parametrize(
    ("arguments", "path", "k", "further"),
    [
        (["lr=0.1/my.jsonl"], "lr=0.1/my.jsonl", 5, []),
        (["lr=0.1/my.jsonl", "k=3"], "lr=0.1/my.jsonl", 3, []),
        (["k=3", "size=8", "x=1"], "x=1", 3, ["size=8"]),
        (["size=8", "my.jsonl"], "my.jsonl", 5, ["size=8"]),
        (["k=3", "--", "k=5"], "k=5", 3, []),
        (["size=2/there"], "size=2/there", 5, []),
        (["--", "--k"], "--k", 5, []),
    ],
)
def test_words_with_an_equals_sign(tmp_path, monkeypatch, arguments, path, k, further):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "size=2").mkdir()
    (tmp_path / "size=2" / "there").touch()
    assert parse_arguments("do", Word, arguments, ["size"]) == (Word(path, k), further)


def test_an_unknown_key_beside_a_word():
    with pytest.raises(ConfigError, match="do has no key 'siz': did you mean 'size'"):
        parse_arguments("do", Word, ["my.jsonl", "siz=8"], ["size"])


def test_further_keys_are_handed_on_as_they_are():
    given_on = ["data.root=a, b", "+loss.x=1", "towers/text=bag_of_words", "~data.y"]
    sample, further = parse("k=1", *given_on, others=["data", "loss", "towers"])
    assert sample.k == 1
    assert further == given_on
    with pytest.raises(ConfigError, match=r"has no key 'lss\.x': did you mean 'loss'"):
        parse("lss.x=1", others=["data", "loss"])
    assert parse("anything.goes=1", others=None)[1] == ["anything.goes=1"]


def test_help_has_key_default_choices_and_words():
    rows = help_rows(Sample)
    assert rows[:3] == [
        ("QUERY", "", "Some words."),
        ("out=", "", "New file."),
        ("k=5", "", "Number."),
    ]
    assert ("kind=red", "red, green", "Sort.") in rows
    assert ("grid.lr=1.0", "", "Learning rates.") in rows
    assert ("share=null", "", "Share.") in rows
    assert usage("try", Sample) == "mxmclr try QUERY out=OUT [key=value ...]"
