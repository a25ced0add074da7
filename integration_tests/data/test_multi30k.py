import json

import pytest

from mxmclr_plugin.data.multi30k import multi30k
from mxmclr_plugin.errors import DataError

FILES = {"train": "train.jsonl", "val": "val.jsonl", "test": "test_2016.jsonl"}


def write(folder, **lines):
    """A file a split, of a photo named by the split unless its lines are given."""
    for split, file in FILES.items():
        default = [{"id": f"{split}.jpg", "en": ["a", "b"], "de": ["c"], "fr": ["d"]}]
        rows = lines.get(split, default)
        texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / file).write_text("\n".join(texts), encoding="utf-8")
    return str(folder)


def test_each_language_is_a_modality(tmp_path):
    data = multi30k(write(tmp_path))
    assert data.kinds == {"en": "text", "de": "text"}
    assert data["train"].names == ["train.jpg"]
    assert data["train"][0].observations == {"en": ["a", "b"], "de": ["c"]}
    assert multi30k(str(tmp_path), languages=["fr", "en"])["test"][0].observations == {
        "fr": ["d"],
        "en": ["a", "b"],
    }
    ids = [int(of.ids[0]) for of in data.values()]
    assert len(set(ids)) == 3


def test_what_cannot_be_used_is_listed(tmp_path):
    whole = {"id": "0.jpg", "en": ["a"], "de": ["b", " ", 7]}
    rows = [
        "{",
        "[]",
        {"id": 3},
        whole,
        {"id": "1.jpg", "en": ["a"]},
        {"id": "2.jpg", "en": 1},
        whole,
    ]
    data = multi30k(
        write(tmp_path, train=[*rows, "", {**whole, "id": "3.jpg", "de": ["\u2028 c"]}])
    )
    assert data["train"].names == ["0.jpg", "3.jpg"]
    assert data["train"][1].observations["de"] == ["c"]
    assert [(p.kind, p.where.rpartition(":")[2]) for p in data.problems] == [
        ("line unreadable", "1"),
        ("line unreadable", "2"),
        ("line unreadable", "3"),
        ("caption unreadable", "4"),
        ("caption unreadable", "4"),
        ("photo without captions", "5"),
        ("photo without captions", "6"),
        ("photo repeated", "7"),
    ]
    with pytest.raises(DataError, match=r"train\.jsonl:1"):
        multi30k(str(tmp_path), on_error="raise")


def test_a_photo_is_of_one_split(tmp_path):
    row = {"id": "train.jpg", "en": ["a"], "de": ["b"]}
    data = multi30k(write(tmp_path, test=[row, {**row, "id": "other.jpg"}]))
    assert data["test"].names == ["other.jpg"]
    assert [problem.kind for problem in data.problems] == ["photo repeated"]


def test_what_is_not_there(tmp_path):
    with pytest.raises(DataError, match="root=FOLDER"):
        multi30k()
    with pytest.raises(DataError, match=r"train\.jsonl cannot be read"):
        multi30k(str(tmp_path))
    write(tmp_path)
    with pytest.raises(DataError, match=r"no photo with captions in \['nl'\]"):
        multi30k(str(tmp_path), languages=["nl"])
    for languages in ([], ["en", "en"]):
        with pytest.raises(ValueError, match="languages are one or more, all different"):
            multi30k(str(tmp_path), languages=languages)


def test_the_real_ones(test_data):
    data = multi30k(str(test_data / "multi30k"))
    assert [len(of) for of in data.values()] == [29_000, 1_014, 1_000]
    for language in ("en", "de"):
        assert set(data["test"].folds(language)) == {5}
    first = json.loads(
        (test_data / "multi30k" / "test_2016.jsonl").open(encoding="utf-8").readline()
    )
    assert data["test"].names[0] == first["id"]
    assert data["test"][0].observations["de"] == [text.strip() for text in first["de"]]
