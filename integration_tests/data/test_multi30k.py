import gzip
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


@pytest.mark.parametrize("compressed", [True, False])
def test_the_raw_text_of_the_authors(tmp_path, compressed):
    """task2/raw/train.1.en.gz ... with task2/image_splits, as github.com/multi30k/dataset has."""
    (tmp_path / "image_splits").mkdir()
    for split, count in (("train", 3), ("val", 2), ("test_2016", 1)):
        names = [f"{split}{k}.jpg" for k in range(count)]
        (tmp_path / "image_splits" / f"{split}_images.txt").write_text("\n".join(names) + "\n")
        for number in range(1, 6):
            for language in ("en", "de"):
                lines = [f"{language} {number} of {name} é\n" for name in names]
                file = tmp_path / "raw" / f"{split}.{number}.{language}"
                file.parent.mkdir(exist_ok=True)
                if compressed:
                    with gzip.open(file.with_name(f"{file.name}.gz"), "wt", encoding="utf-8") as to:
                        to.writelines(lines)
                else:
                    file.write_text("".join(lines), encoding="utf-8")
    data = multi30k(str(tmp_path / "raw"))
    assert {split: of.names for split, of in data.items()} == {
        "train": ["train0.jpg", "train1.jpg", "train2.jpg"],
        "val": ["val0.jpg", "val1.jpg"],
        "test": ["test_20160.jpg"],
    }
    expected = [f"de {number} of val1.jpg é" for number in range(1, 6)]
    assert data["val"][1].observations["de"] == expected
    assert data.problems == ()
    short = next((tmp_path / "raw").glob("val.3.de*"))
    short.write_bytes(gzip.compress(b"one\n") if compressed else b"one\n")
    with pytest.raises(DataError, match="a line of each file is of the same photo, but"):
        multi30k(str(tmp_path / "raw"))
    short.write_bytes(b"\x1f\x8b\x08no gzip")
    if compressed:
        with pytest.raises(DataError, match=r"val\.3\.de\.gz cannot be read"):
            multi30k(str(tmp_path / "raw"))


def test_task_1_has_one_caption(tmp_path):
    for split in ("train", "val", "test_2016_flickr"):
        for language in ("en", "de"):
            text = f"{language} {split}\n".encode()
            (tmp_path / f"{split}.{language}.gz").write_bytes(gzip.compress(text))
    data = multi30k(str(tmp_path))
    assert data["test"].names == ["test_2016 1"]
    assert data["test"][0].observations == {
        "en": ["en test_2016_flickr"],
        "de": ["de test_2016_flickr"],
    }


def test_what_is_not_there(tmp_path):
    with pytest.raises(DataError, match="root=FOLDER"):
        multi30k()
    with pytest.raises(DataError, match=r"has neither train\.jsonl nor train\.en\.gz"):
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
