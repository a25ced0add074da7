import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.data.shapenet.captions import ShapeEntry, read_entries, read_vocabulary
from mxmclr_plugin.errors import DataError


def entries(path, content, log=None, **options):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_entries(path, log or ProblemLog("raise"), **options)


def test_forms_that_are_in_use(tmp_path):
    expected = [ShapeEntry("ab", "chair", ("a red chair",)), ShapeEntry("cd", "table", ("low",))]
    csv = "id,modelId,description,category\n1,ab,a  red\nchair,Chair\n".replace(
        "a  red\nchair", '"a  red\nchair"'
    )
    assert entries(tmp_path / "a.csv", csv + "2,cd,low,Table\n") == expected
    rows = [
        {"model_id": "ab", "category": "03001627", "caption": "a red chair\n"},
        {"model": "cd.nrrd", "topLevelSynsetId": 4379243, "captions": ["low"]},
    ]
    assert entries(tmp_path / "a.json", json.dumps(rows)) == expected
    lines = "\n".join(json.dumps(row) for row in rows)
    assert entries(tmp_path / "a.jsonl", lines) == expected
    assert entries(tmp_path / "a.txt", "ab\n\ncd\n") == [
        ShapeEntry("ab", "", ()),
        ShapeEntry("cd", "", ()),
    ]
    assert entries(tmp_path / "b.json", '["ab"]') == [ShapeEntry("ab", "", ())]


def test_words_by_number(tmp_path):
    (tmp_path / "shapenet.json").write_text('{"idx_to_word": {"2": "red", "3": "chair"}}')
    vocabulary = read_vocabulary(tmp_path / "shapenet.json")
    row = {"model": "ab", "arrays": [2, 3, 99, 0, 0]}
    (entry,) = entries(tmp_path / "a.json", json.dumps([row]), vocabulary=vocabulary)
    assert entry.captions == ("red chair <UNK>",)
    # The text is taken where there is one.
    (entry,) = entries(
        tmp_path / "a.json", json.dumps([{**row, "caption": "mine"}]), vocabulary=vocabulary
    )
    assert entry.captions == ("mine",)
    assert entries(tmp_path / "a.json", json.dumps([row]))[0].captions == ()
    for bad in ("{}", "[]", '{"idx_to_word": {"a": "b"}}', "{"):
        (tmp_path / "shapenet.json").write_text(bad)
        with pytest.raises(DataError, match=r"idx_to_word|is no JSON"):
            read_vocabulary(tmp_path / "shapenet.json")


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("7", "line unreadable"),
        ('{"caption": "a"}', "caption unreadable"),
        ('{"model": "ab", "caption": 7}', "caption unreadable"),
        ('{"model": "ab", "captions": ["a", null]}', "caption unreadable"),
        ('{"model": "ab", "caption": " "}', "caption empty"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, row, kind):
    log = ProblemLog()
    read = entries(tmp_path / "a.jsonl", f'{row}\n{{"model": "cd", "caption": "b"}}', log)
    assert read[-1] == ShapeEntry("cd", "", ("b",))
    assert [(p.kind, p.where) for p in log.problems] == [(kind, f"{tmp_path / 'a.jsonl'}:1")]
    with pytest.raises(DataError, match=r"a\.jsonl:1"):
        entries(tmp_path / "a.jsonl", row)


def test_an_empty_cell_a_short_row_and_letters_that_are_not_utf8(tmp_path):
    log = ProblemLog()
    content = b"modelId,description\nab,\nef\ncd,caf\xe9\ngh,tea\n"
    read = entries(tmp_path / "a.csv", content, log)
    assert [(entry.model, entry.captions) for entry in read] == [("ab", ()), ("gh", ("tea",))]
    assert log.counts() == {"line unreadable": 2, "caption empty": 1}
    assert "it looks like Latin-1 or Windows-1252" in log.problems[2].what


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "is no JSON"),
        ("a.json", "[" * 100_000, "is no JSON"),
        ("a.json", "{}", "has no id of a shape"),
        ("a.csv", "a,b\n", "has the columns a, b"),
        ("a.csv", "", "is empty: a table begins with a line of column names"),
        ("a.p", "", "is not one of"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        entries(tmp_path / name, content)


@settings(max_examples=100)
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".csv", ".json", ".jsonl", ".txt"]))
def test_any_bytes_are_rows_or_an_error(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("any") / f"a{suffix}"
    try:
        read = entries(path, content, ProblemLog())
    except DataError:
        return
    assert all(isinstance(entry.model, str) and entry.model for entry in read)
