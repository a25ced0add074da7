"""The format of a manifest: what is read, what is refused, and where that is said."""

import json
import os

import numpy as np
import pandas as pd
import pytest
import torch
from data.manifest.sample_files import KINDS, write_lines, write_sample
from PIL import Image

from mxmclr_plugin.data.manifest.build import manifest
from mxmclr_plugin.data.readers.image import read_image
from mxmclr_plugin.data.readers.voxel import read_voxel
from mxmclr_plugin.errors import DataError

OPTIONS = {"size": 16, "resolution": 8, "points": 20}


def texts(*lines, **options):
    """A data set of lines with texts, written where the caller says."""
    path = options.pop("path")
    write_lines(path, lines)
    return manifest(str(path), **options)


def three(**more):
    return [{"id": s, "split": s, "text": [f"a {s}"], **more} for s in ("train", "val", "test")]


def test_all_kinds(tmp_path):
    path = write_lines(tmp_path / "my.jsonl", write_sample(tmp_path))
    data = manifest(str(path), **OPTIONS)
    assert not data.problems
    assert not data.notes
    assert data.kinds == {"text": "text", **{kind: kind for kind in KINDS}}
    assert {split: len(dataset) for split, dataset in data.items()} == {
        **{"train": 6, "val": 2, "test": 2}
    }
    first = data["train"][0].observations
    assert list(first["text"]) == ["thing number 0", "no. 0: ein Ding"]
    assert torch.equal(first["image"][0], read_image(tmp_path / "image" / "a.jpg", 16))
    assert torch.equal(first["voxel"][0], read_voxel(tmp_path / "voxel" / "a.nrrd", 8))
    assert first["points"][0].shape == (20, 3)
    assert (first["features"][0].numpy() == np.linspace(-1, 1, 6, dtype=np.float32)).all()
    strokes = np.load(tmp_path / "strokes" / "a.npy")
    assert (first["strokes"][0].numpy() == strokes).all()
    assert data["test"].names == ["8", "9"]


def test_modalities_of_other_names(tmp_path):
    data = texts(
        *[{**line, "text:en": "one", "text:de": ["eins", "ein"]} for line in three()],
        path=tmp_path / "m.jsonl",
    )
    assert data.kinds == {"text": "text", "en": "text", "de": "text"}
    assert list(data["train"][0].observations["de"]) == ["eins", "ein"]


def test_splits_are_drawn_from_instances_with_two_modalities(tmp_path):
    lines = [{"id": k, "text:a": f"a{k}"} for k in range(40)]
    for line in lines[::2]:
        line["text:b"] = "b"
    for seed in range(5):
        data = texts(*lines, path=tmp_path / "m.jsonl", seed=seed)
        assert [len(of) for of in data.values()] == [32, 4, 4]
        assert all(of.folds("b").all() for split, of in data.items() if split != "train")


def test_other_names_of_splits(tmp_path):
    names = {"train": "Training", "val": "validation", "test": "test "}
    lines = [{**line, "split": names[line["split"]]} for line in three()]
    lines += [{"id": "d", "split": "dev", "text": "a dev"}]
    data = texts(*lines, path=tmp_path / "m.jsonl")
    assert {split: len(of) for split, of in data.items()} == {"train": 1, "val": 2, "test": 1}


@pytest.mark.parametrize(
    ("key", "guess"),
    [
        *(("images", "image"), ("caption", "text"), ("captions", "text"), ("file_name", "image")),
        *(("title", "text"), ("sku", "id"), ("image_id", "id"), ("point_cloud", "points")),
        *(("embedding", "features"), ("mesh", "points"), ("subset", "split"), ("Image", "image")),
        *(("caption_1", "text"), ("imgae", "image"), ("sketch", "strokes"), ("grid", "voxel")),
    ],
)
def test_a_guess_for_a_key(tmp_path, key, guess):
    data = texts(*three(**{key: ["x"]}), path=tmp_path / "m.jsonl")
    (problem,) = data.problems
    assert problem.kind == "key unknown"
    assert f"did you mean {guess!r}" in problem.what


@pytest.mark.parametrize("name", ["image\\b.png", "image/b.PNG", "./image//b.png"])
def test_paths_of_other_systems(tmp_path, name):
    (tmp_path / "image").mkdir()
    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "image" / "b.png")
    data = texts(*three(image=name), path=tmp_path / "m.jsonl", size=16)
    assert data.problems == ()
    assert int(data["train"][0].observations["image"][0].max()) == 9
    for line in ("..\\image\\b.png", "C:\\image\\b.png"):
        (problem, *_) = texts(*three(image=line), path=tmp_path / "m.jsonl").problems
        assert problem.kind in ("image outside the folder", "image missing")


def test_a_url_is_named(tmp_path):
    (problem, *_) = texts(*three(image="https://x/a.png"), path=tmp_path / "m.jsonl").problems
    assert problem.kind == "image missing"
    assert "'https://x/a.png' is a URL: only files are read" in problem.what


def test_a_name_that_is_no_unicode_text(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (16, 16)).save(tmp_path / name)
    (tmp_path / "m.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in three(image=[name]))
    )
    data = manifest(str(tmp_path / "m.jsonl"), size=16)
    assert data.problems == ()
    assert len(data["train"][0].observations["image"]) == 1


def test_a_folder_that_is_no_unicode_text_and_a_hidden_file_in_it(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    write_lines(folder / "m.jsonl", [{"text": [f"{k}"]} for k in range(3)])
    (folder / "._m.jsonl").write_bytes(b"\0\x05\x16\x07\0\x02\0\0Mac OS X")
    data = manifest(str(folder))
    names = sorted(name for of in data.values() for name in of.names)
    assert [name.rpartition("/caf")[2] for name in names] == [
        rf"\xe9/m.jsonl:{line}" for line in (1, 2, 3)
    ]


def test_another_encoding(tmp_path):
    text = "\n".join(json.dumps({**line, "text": "é"}, ensure_ascii=False) for line in three())
    (tmp_path / "m.jsonl").write_bytes(text.encode("cp1252"))
    with pytest.raises(DataError, match=r"m\.jsonl:1: byte 0xe9 .* set encoding=cp1252"):
        manifest(str(tmp_path / "m.jsonl"))
    data = manifest(str(tmp_path / "m.jsonl"), encoding="cp1252")
    assert list(data["train"][0].observations["text"]) == ["é"]


def test_lines_of_one_id_are_one_instance(tmp_path):
    lines = three()
    lines += [
        {"id": "train", "text": ["a train", "again"]},
        {"id": 1, "split": "train", "text": "the number"},
        {"id": "1", "split": "train", "text": "the text"},
        {"id": True, "text": "a boolean"},
        {"text": "no id"},
        {"text": "no id"},
    ]
    data = texts(*lines, path=tmp_path / "m.jsonl")
    train = data["train"]
    assert train.names == [
        *("train", "1", "1", "true"),
        f"{tmp_path / 'm.jsonl'}:8",
        f"{tmp_path / 'm.jsonl'}:9",
    ]
    assert list(train[0].observations["text"]) == ["a train", "again"]
    assert not data.problems
    assert data.notes == ("3 instances of m.jsonl have no split and are used for training",)


def test_an_id_in_two_splits_is_an_error_that_names_both_lines(tmp_path):
    path = tmp_path / "m.jsonl"
    lines = [*three(), {"id": "train", "split": "test", "text": "x"}]
    with pytest.raises(DataError) as caught:
        texts(*lines, path=path)
    assert f"{path}:4" in str(caught.value)
    assert f"{path}:1" in str(caught.value)


def test_a_split_that_is_not_said_is_drawn(tmp_path):
    lines = [{"id": k, "text": [str(k)]} for k in range(40)]
    data = texts(*lines, path=tmp_path / "m.jsonl", seed=3)
    again = texts(*lines, path=tmp_path / "m.jsonl", seed=3)
    other = texts(*lines, path=tmp_path / "m.jsonl", seed=4)
    assert {split: len(dataset) for split, dataset in data.items()} == {
        **{"train": 32, "val": 4, "test": 4}
    }
    names = [name for dataset in data.values() for name in dataset.names]
    assert sorted(names, key=int) == [str(k) for k in range(40)]
    assert data["test"].names == again["test"].names != other["test"].names
    assert "has no test and no val split" in data.notes[0]
    assert "seed 3" in data.notes[0]


def test_only_val_is_drawn_where_test_is_said(tmp_path):
    lines = [{"id": k, "split": "test" if k < 5 else "train", "text": str(k)} for k in range(25)]
    data = texts(*lines, path=tmp_path / "m.jsonl")
    assert data["test"].names == [str(k) for k in range(5)]
    assert (len(data["train"]), len(data["val"])) == (18, 2)


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("way", ["dots", "absolute", "link", "linked folder"])
def test_files_outside_the_folder(tmp_path, way, allow):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
    np.save(outside / "a.npy", np.arange(3.0))
    (inside / "link.npy").symlink_to(outside / "a.npy")
    (inside / "folder").symlink_to(outside)
    name = {
        "dots": "../out/a.npy",
        "absolute": str(outside / "a.npy"),
        "link": "link.npy",
        "linked folder": "folder/a.npy",
    }[way]
    path = inside / "m.jsonl"
    data = texts(*three(features=[name]), path=path, allow_outside=allow)
    if allow:
        assert not data.problems
        assert data["test"][0].observations["features"][0].tolist() == [0, 1, 2]
    else:
        assert [problem.kind for problem in data.problems] == ["features outside the folder"] * 3
        assert [problem.where for problem in data.problems] == [f"{path}:{k}" for k in (1, 2, 3)]
        assert name in data.problems[0].what
        assert data.kinds == {"text": "text"}


def test_a_link_and_dots_within_the_folder(tmp_path):
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "a.npy", np.arange(3.0))
    (tmp_path / "link.npy").symlink_to(tmp_path / "a" / "a.npy")
    lines = three(features="a/../a/a.npy")
    lines[0]["features"] = ["link.npy", "a/a.npy"]
    data = texts(*lines, path=tmp_path / "m.jsonl")
    # One file, whatever it is called.
    assert [problem.kind for problem in data.problems] == ["features repeated"]
    assert len(data["train"].stores["features"]) == 1


def test_root(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3.0))
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "m.jsonl"
    data = texts(*three(features="a.npy"), path=path, root=str(tmp_path))
    assert len(data["test"][0].observations["features"]) == 1


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ({"id": [1]}, "id unreadable", "key 'id': a list"),
        ({"id": {"a": 1}}, "id unreadable", "key 'id': an object"),
        ({"split": 3}, "split unknown", "key 'split': a number (3)"),
        ({"split": "tset"}, "split unknown", "did you mean 'test'"),
        ({"text": 3}, "text of a wrong type", "key 'text' is a number (3)"),
        ({"text": {"en": "a"}}, "text of a wrong type", "key 'text' is an object"),
        ({"text": ["a", None]}, "text of a wrong type", "item 2, is null, no text"),
        ({"text": ["a", ["b"]]}, "text of a wrong type", "item 2, is a list, no text"),
        ({"text": ["a", " "]}, "text unreadable", "item 2, is empty"),
        ({"text": ["a", "\ud800"]}, "text unreadable", "item 2"),
        ({"text": ["a", "b", "a"]}, "text repeated", "key 'text' has one twice"),
        ({"features": [True]}, "features of a wrong type", "item 1, is a boolean (True), no path"),
        ({"features": "a\0b"}, "features missing", "item 1"),
        ({"txet": ["a"]}, "key unknown", "did you mean 'text'"),
        ({"text:": ["a"]}, "key unknown", "cannot be a modality's name"),
        ({"text:a b": ["a"]}, "key unknown", "cannot be a modality's name"),
        ({"text:image": ["a"]}, "key unknown", "cannot be a modality's name"),
        ({"text:type": ["a"]}, "key unknown", "cannot be a modality's name"),
    ],
)
def test_what_does_not_fit_names_file_line_and_key(tmp_path, line, kind, words):
    path = tmp_path / "m.jsonl"
    lines = [*three(), {"id": "x", "split": "train", "text": "fine", **line}]
    data = texts(*lines, path=path)
    (problem,) = [problem for problem in data.problems if problem.kind == kind]
    assert problem.where == f"{path}:4"
    assert words in problem.what
    with pytest.raises(DataError, match=r"m\.jsonl:4: .*on_error=skip"):
        manifest(str(path), on_error="raise")


def test_keys_that_are_not_read_are_said_once(tmp_path):
    data = texts(*three(caption="x", meta={"any": "thing"}), path=tmp_path / "m.jsonl")
    (problem,) = data.problems
    assert (problem.kind, problem.where) == ("key unknown", f"{tmp_path / 'm.jsonl'}:1")
    assert "'caption', in 3 rows" in problem.what


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": 1, "text": "cut',
        b'{"id": NaN, "text": "a"}',
        b'{"id": 1, "id": 2}',
        b'["a", "list"]',
        b'"a text"',
        b"\xff\xfe\x00",
        b'{"id": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_lines_that_are_no_json_objects(tmp_path, line):
    path = tmp_path / "m.jsonl"
    good = [json.dumps(entry).encode() for entry in three()]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n\n".join([*good, line]))
    data = manifest(str(path))
    (problem,) = data.problems
    assert (problem.kind, problem.where) == ("line unreadable", f"{path}:7")
    assert len(data["train"]) == 1


@pytest.mark.parametrize("content", [b"", b"\n\n", b"[]\n", b"\x00" * 1000, b'{"id": 1}\n'])
def test_a_manifest_without_instances(tmp_path, content):
    path = tmp_path / "m.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"m\.jsonl (holds no instance|is zeros)"):
        manifest(str(path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": None}, "path=my.jsonl"),
        ({"path": "no.jsonl"}, "no such manifest"),
        ({"size": 0}, "size must be 8"),
        ({"points": 0}, "points must be 1"),
        ({"background": "nocolour"}, "background must be a colour"),
        ({"resolution": 0}, "resolution must be"),
        ({"on_error": "ask"}, "on_error must be"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_options(tmp_path, options, words):
    path = write_lines(tmp_path / "m.jsonl", [{"id": k, "text": str(k)} for k in range(9)])
    with pytest.raises(ValueError, match=words):
        manifest(**{"path": str(path), **options})


def test_too_few_to_draw_a_split_from(tmp_path):
    with pytest.raises(DataError, match="too few to draw"):
        texts({"id": 1, "text": "a"}, {"id": 2, "text": "b"}, path=tmp_path / "m.jsonl")


def test_a_manifest_for_measuring_alone(tmp_path):
    lines = [{"id": k, "split": ("test", "val")[k > 3], "text": str(k)} for k in range(5)]
    data = manifest(str(write_lines(tmp_path / "m.jsonl", lines)))
    assert {split: dataset.names for split, dataset in data.items()} == {
        "val": ["4"],
        "test": ["0", "1", "2", "3"],
    }
    del lines[4]["split"]
    with pytest.raises(DataError, match="1 instances to train on: too few"):
        manifest(str(write_lines(tmp_path / "m.jsonl", lines)))


def test_files_that_cannot_be_read_are_left_out(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3.0))
    np.save(tmp_path / "b.npy", np.arange(4.0))
    (tmp_path / "c.npy").mkdir()
    os.mkfifo(tmp_path / "d.npy")
    lines = three(features="a.npy")
    lines[0]["features"] = ["a.npy", "b.npy", "c.npy", "d.npy", "e.npy"]
    data = texts(*lines, path=tmp_path / "m.jsonl")
    assert {problem.where: problem.kind for problem in data.problems} == {
        str(tmp_path / "b.npy"): "features unreadable",
        **{str(tmp_path / f"{name}.npy"): "features missing" for name in "cde"},
    }
    assert "the first one is" in data.problems[0].what
    assert data["train"].folds("features").tolist() == [1]


def test_parquet_of_texts_and_paths_as_pandas_writes_it(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3.0))
    frame = pd.DataFrame(
        {
            "id": [10, 11, 12],
            "split": ["train", "val", "test"],
            "text": [["a", "b"], ["c"], ["d"]],
            "features": ["a.npy", None, "a.npy"],
        }
    )
    frame.to_parquet(tmp_path / "m.parquet")
    data = manifest(str(tmp_path / "m.parquet"))
    assert not data.problems
    assert data["train"].names == ["10"]
    assert list(data["train"][0].observations["text"]) == ["a", "b"]
    assert data["val"].folds("features").tolist() == [0]
    assert data["test"][0].observations["features"][0].tolist() == [0, 1, 2]


def test_unicode(tmp_path):
    names = ["стул.npy", "椅子.npy", "e\u0301té\u202e.npy"]
    lines = []
    for name, split in zip(names, ("train", "val", "test")):
        np.save(tmp_path / name, np.arange(3.0))
        lines.append({"id": name, "split": split, "text": "🪑 " + name, "features": name})
    data = texts(*lines, path=tmp_path / "данные.jsonl")
    assert not data.problems
    assert data["val"].names == ["椅子.npy"]
    assert data["val"][0].observations["text"] == ["🪑 椅子.npy"]


def test_options_of_the_readers(tmp_path):
    clear = np.zeros((16, 16, 4), np.uint8)
    Image.fromarray(clear).save(tmp_path / "a.png")
    grids = {"a": np.ones((8, 8, 8)), "b": np.eye(8)[None] * np.ones((8, 1, 1))}
    np.savez(tmp_path / "a.npz", **grids)
    lines = three(image="a.png", voxel="a.npz")
    path = write_lines(tmp_path / "m.jsonl", lines)
    data = manifest(str(path), **OPTIONS)
    assert [problem.kind for problem in data.problems] == ["voxel unreadable"]
    assert "npz_key=" in data.problems[0].what
    assert (data["train"][0].observations["image"][0] == 255).all()
    for key, grid in grids.items():
        data = manifest(str(path), **OPTIONS, npz_key=key, background="#0a1420")
        assert not data.problems
        image, voxel = (data["train"][0].observations[kind][0] for kind in ("image", "voxel"))
        assert image[:, 3, 4].tolist() == [10, 20, 32]
        assert ((voxel[3] > 0).numpy() == (grid > 0)).all()


def test_labels_are_attributes(tmp_path):
    lines = [
        {"id": 1, "text": ["a"], "meta": {"kind": "cup", "year": 1999}},
        {"id": 2, "text": ["b"], "kind": ["cup", "jar"]},
        {"id": 1, "text": ["c"], "meta": {"kind": "mug"}},
        {"id": 3, "text": ["d"], "kind": {"a": 1}},
    ]
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps({**line, "split": "test"}) + "\n" for line in lines))
    data = manifest(str(path), labels=["kind", "year"])
    assert data["test"].attributes == {
        "kind": [("cup", "mug"), ("cup", "jar"), ()],
        "year": [("1999",), (), ()],
    }
    assert data["test"].subset([1]).attributes == {"kind": [("cup", "jar")], "year": [()]}
    assert [problem.kind for problem in data.problems] == ["label of a wrong type"]
    assert manifest(str(path))["test"].attributes == {}
    with pytest.raises(DataError, match="labels: no instance has a value of 'colour'"):
        manifest(str(path), labels=["colour"])


def test_a_column_of_labels(tmp_path):
    path = tmp_path / "my.csv"
    path.write_text("id,split,text,kind\n1,test,a,cup\n2,test,b,jar\n3,test,c,\n")
    data = manifest(str(path), labels=["kind"])
    assert data["test"].attributes == {"kind": [("cup",), ("jar",), ()]}
    assert data.problems == ()
