"""`data convert table` and `data convert folder`: from files of any form to a manifest."""

import json
import os
import shlex
import unicodedata

import pandas
import pytest
from data.captioned_images.sets import image, karpathy
from data.manifest.sample_files import image as image_bytes

from mxmclr_plugin.data.manifest.build import manifest
from mxmclr_plugin.data.manifest.instances import Instances, ManifestInstance
from mxmclr_plugin.data.manifest.table import TableColumns
from mxmclr_plugin.data.manifest.write_list import write_list
from mxmclr_plugin.data.rows import Row
from mxmclr_plugin.run.command_line import main


def run(capsys, *arguments):
    status = main([*map(str, arguments)])
    said = capsys.readouterr()
    return status, " ".join(said.out.split()), said.err


def products(folder):
    """Three products with two rows each, as a shop exports them."""
    for k in range(6):
        image(folder / "photos" / f"{k}.JPG", 40 * k)
    return pandas.DataFrame(
        [
            {
                "sku": f"0{k // 2}",
                "photo": f"photos\\{k}.jpg" if k % 2 else f"photos/{k}.JPG",
                "title": ["Red mug, large", 'A "blue"\nmug', "Tasse für Käse"][k // 2],
                "description": [None, f"view {k}"][k % 2],
                "split": ["train", "validation", "dev", "Test"][k // 2 + (k > 3)],
            }
            for k in range(6)
        ]
    )


WRITERS = {
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "csv.gz": lambda frame, path: frame.to_csv(path, index=False),
    "json": lambda frame, path: frame.to_json(path, orient="records"),
    "jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "parquet": lambda frame, path: frame.to_parquet(path, index=False),
    "xlsx": lambda frame, path: frame.to_excel(path, index=False),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_table_of_pandas(tmp_path, capsys, monkeypatch, suffix):
    if suffix == "xlsx":
        pytest.importorskip("openpyxl")
    monkeypatch.chdir(tmp_path)
    WRITERS[suffix](products(tmp_path), f"products.{suffix}")
    status, out, err = run(
        *(capsys, "data", "convert", "table", f"path=products.{suffix}", "id=sku"),
        *("image=photo", "text=title,description", "out=my.jsonl"),
    )
    assert (status, err) == (0, "")
    assert "columns: id=sku, split=split, image=photo, text=title,description" in out
    assert "3 instances with 6 image, 6 text, in my.jsonl" in out
    lines = [json.loads(line) for line in (tmp_path / "my.jsonl").read_text().splitlines()]
    assert lines == [
        {
            "id": f"0{k}",
            "split": ["train", "val", "test"][k],
            "text": [title, f"view {2 * k + 1}"],
            "image": [f"photos/{2 * k}.JPG", f"photos/{2 * k + 1}.JPG"],
        }
        for k, title in enumerate(["Red mug, large", 'A "blue"\nmug', "Tasse für Käse"])
    ]
    assert manifest("my.jsonl", size=8).problems == ()


def test_columns_are_guessed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    products(tmp_path).drop(columns="split").to_csv("products.csv", sep=";", index=False)
    status, out, _ = run(*(capsys, "data", "convert", "table", "path=products.csv", "out=my.jsonl"))
    assert status == 0
    assert "columns: id=sku, text=title, image=photo" in out
    status, _, err = run(
        *(capsys, "data", "convert", "table", "path=products.csv", "out=b.jsonl", "image=foto")
    )
    assert status == 2
    assert "there is no column 'foto': did you mean 'photo'? columns are sku, photo, title" in err


def test_a_column_is_guessed_as_the_split_only_if_it_mostly_has_splits():
    def split(**columns):
        columns["caption"] = list("abc")
        rows = [Row(f"{k}", {key: of[k] for key, of in columns.items()}) for k in range(3)]
        return TableColumns().completed(rows).split

    assert split(fold=["0", "1", "4"]) is None
    assert split(fold=[0, 1, 4]) is None
    assert split(Partition=["train", None, "dev"]) == "Partition"
    assert split(set=["A", "train", "B"], fold=["train", "test", ""]) == "fold"
    assert split(set=["train", "test", "holdout"]) == "set"
    assert split(set=[None, None, None]) is None
    assert split(split=["0", "1", "4"]) == "split"


def test_images_that_are_not_there(tmp_path, capsys):
    products(tmp_path).to_csv(tmp_path / "products.csv")
    (tmp_path / "photos" / "0.JPG").unlink()
    asked = ["data", "convert", "table", f"path={tmp_path / 'products.csv'}"]
    status, out, _ = run(capsys, *asked, f"out={tmp_path / 'a.jsonl'}")
    assert status == 0
    assert "1 problems; runs leave these records out: image missing: 1" in out
    status, _, err = run(capsys, *asked, f"out={tmp_path / 'b.jsonl'}", f"root={tmp_path / 'x'}")
    assert status == 2
    assert f"6 of 6 files of 'image' do not exist; paths are relative to {tmp_path / 'x'}" in err


def test_columns_that_are_not_used_are_named(tmp_path, capsys):
    (tmp_path / "p.csv").write_text("id,photo file,title,price\n1,a.png,a cup,2\n2,b.png,a jug,3\n")
    asked = ["data", "convert", "table", f"path={tmp_path / 'p.csv'}"]
    status, out, _ = run(capsys, *asked, f"out={tmp_path / 'p.jsonl'}")
    assert status == 0
    assert "columns: id=id, text=title columns that are not used: photo file, price" in out
    assert "training needs a second modality" in out
    assert "to train" not in out


def test_the_printed_command_reads_files_elsewhere(tmp_path, capsys):
    (tmp_path / "it's (a) =,[b]").mkdir()
    out_path = tmp_path / "it's (a) =,[b]" / "my.jsonl"
    products(tmp_path).to_csv(tmp_path / "products.csv")
    status = main(
        ["data", "convert", "table", f"path={tmp_path / 'products.csv'}", f"out={out_path}"]
    )
    assert status == 0
    command = capsys.readouterr().out.splitlines()[-1].partition("to train: ")[2]
    words = shlex.split(command)[2:]
    assert words == [f"data.path={out_path}", "data.allow_outside=true"]
    assert manifest(str(out_path), size=8, allow_outside=True).problems == ()
    status, out, _ = run(capsys, "data", "check", out_path, "allow_outside=true", "size=8")
    assert "3 instances" in out or status in (0, 1)


def test_files_embedded_in_parquet(tmp_path, capsys):
    datasets = pytest.importorskip("datasets")
    rows = {
        "picture": [{"bytes": image_bytes("png", seed=k), "path": f"{k}.png"} for k in range(3)],
        "caption": ["a", "b", "c"],
    }
    features = datasets.Features({"picture": datasets.Image(), "caption": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    asked = ["data", "convert", "table"]
    for path, out in ((tmp_path / "train.parquet", "a.jsonl"), (f"hub:{tmp_path}", "b.jsonl")):
        status, said, _ = run(capsys, *asked, f"path={path}", f"out={tmp_path / out}")
        assert status == 0
        assert "text=caption, image=picture" in said
        lines = [json.loads(line) for line in (tmp_path / out).read_text().splitlines()]
        assert [line["text"] for line in lines] == [["a"], ["b"], ["c"]]
        for k, line in enumerate(lines):
            assert (tmp_path / line["image"][0]).read_bytes() == image_bytes("png", seed=k)


def test_columns_with_numbers_are_one_key(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    products(tmp_path)
    where = "photos/0.JPG"
    (tmp_path / "t.csv").write_text(
        f"Image,caption_1,caption_2,caption_3\n{where},a,b,c\n{where},,d,\n"
    )
    status, out, _ = run(capsys, "data", "convert", "table", "path=t.csv", "out=t.jsonl")
    assert status == 0
    assert "columns: id=Image, text=caption_1,caption_2,caption_3, image=Image" in out
    (line,) = map(json.loads, (tmp_path / "t.jsonl").read_text().splitlines())
    assert line["text"] == ["a", "b", "c", "d"]


def test_hints_at_files_with_another_suffix_and_names_in_another_form(
    tmp_path, capsys, monkeypatch
):
    """A Mac writes accents as characters of their own."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", unicodedata.normalize("NFD", "é.png"), "c.png"):
        image(tmp_path / name, 9)
    accent = unicodedata.normalize("NFC", "é.png")
    (tmp_path / "t.csv").write_text(f"image,caption\na.jpg,x\n{accent},y\nc.png,z\n")
    status, out, _ = run(capsys, "data", "convert", "table", "path=t.csv", "out=t.jsonl")
    assert status == 0
    assert "there is no file" in out
    assert "a.jpg; there is a.png" in out
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines if "image" in line] == [
        [unicodedata.normalize("NFD", "é.png")],
        ["c.png"],
    ]
    (tmp_path / "u.csv").write_text("image,caption\na,x\nc,y\n")
    status, _, err = run(capsys, "data", "convert", "table", "path=u.csv", "out=u.jsonl")
    assert status == 2
    assert "there is a.png" in err


def test_a_table_without_a_row_that_can_be_read_says_why(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("# made by us\nimage,caption\na.png,x\n")
    status, _, err = run(capsys, "data", "convert", "table", "path=t.csv", "out=t.jsonl")
    assert status == 2
    assert "no row can be read: line unreadable: 2 (t.csv:2: it has 2 fields, the head has 1" in err


def test_a_data_set_of_the_hub(tmp_path, capsys, monkeypatch):
    """Called by its name and configuration; there is no hub here, so load_dataset is a stand-in."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    calls = []

    def load_dataset(*arguments):
        calls.append(arguments)
        features = datasets.Features(
            {
                "image": datasets.Image(),
                "caption": datasets.Sequence(datasets.Value("string")),
                "label": datasets.ClassLabel(names=["mug", "chair"]),
                "id": datasets.Value("int64"),
            }
        )
        parts = {}
        for part, (split, ids) in enumerate((("train", [7, 8]), ("validation", [9]))):
            rows = {
                "image": [{"bytes": image_bytes("png", seed=k), "path": "x.png"} for k in ids],
                "caption": [[f"{split} {k}", "more"] for k in ids],
                "label": [part] * len(ids),
                "id": ids,
            }
            parts[split] = datasets.Dataset.from_dict(rows, features=features)
        return datasets.DatasetDict(parts)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    out = tmp_path / "my.jsonl"
    status, said, _ = run(
        *(capsys, "data", "convert", "table", "path=hub:owner/photos:small"),
        *(f"out={out}", "image=image", "text=caption", "text:kind=label"),
    )
    assert status == 0
    assert calls == [("owner/photos", "small")]
    assert "3 instances with 3 image, 6 text, 3 kind" in said
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["id"], line["split"]) for line in lines] == [
        *(("7", "train"), ("8", "train"), ("9", "val"))
    ]
    assert [line["text:kind"] for line in lines] == [["mug"], ["mug"], ["chair"]]
    assert lines[2]["text"] == ["validation 9", "more"]
    for line, seed in zip(lines, (7, 8, 9), strict=True):
        assert (tmp_path / line["image"][0]).read_bytes() == image_bytes("png", seed=seed)


def test_folders_that_are_named_by_what_they_show(tmp_path, capsys):
    for split in ("train", "validation", "test"):
        for k, name in enumerate(("red_mug", "old-chair")):
            for n in range(2):
                image(tmp_path / "photos" / split / name / f"{n}.png", 30 * k + n)
    chair = tmp_path / "photos" / "train" / "old-chair"
    (chair / "about.txt").write_text("a chair\n\nold wood\n")
    (chair / "._about.txt").write_bytes(b"\0\x05\x16\x07\0\x02\0\0Mac OS X")
    image(tmp_path / "photos" / ".trash" / "vase" / "0.png", 5)
    status, out, _ = run(
        *(capsys, "data", "convert", "folder", f"path={tmp_path / 'photos'}"),
        f"out={tmp_path / 'my.jsonl'}",
    )
    assert status == 0
    assert "a folder for each instance" in out
    lines = [json.loads(line) for line in (tmp_path / "my.jsonl").read_text().splitlines()]
    assert {line["id"]: (line["split"], line["text"]) for line in lines} == {
        "train/red_mug": ("train", ["red mug"]),
        "train/old-chair": ("train", ["a chair", "old wood"]),
        "validation/red_mug": ("val", ["red mug"]),
        "validation/old-chair": ("val", ["old chair"]),
        "test/red_mug": ("test", ["red mug"]),
        "test/old-chair": ("test", ["old chair"]),
    }
    assert lines[0]["image"] == [f"photos/test/old-chair/{n}.png" for n in range(2)]


def test_text_files_beside_images(tmp_path, capsys):
    for k in range(3):
        image(tmp_path / "p" / "any" / f"{k}.png", k)
        (tmp_path / "p" / "any" / f"{k}.txt").write_text(f"caption {k}\nagain {k}\n")
    image(tmp_path / "p" / "3.png", 3)
    status, out, _ = run(
        capsys, "data", "convert", "folder", f"path={tmp_path / 'p'}", f"out={tmp_path / 'm.jsonl'}"
    )
    assert status == 0
    assert "photo without captions: 1" in out
    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert lines[1] == {
        "id": "any/1.png",
        "text": ["caption 1", "again 1"],
        "image": ["p/any/1.png"],
    }


def test_a_folder_with_annotations(tmp_path, capsys):
    karpathy(tmp_path / "f", ["train", "val", "test"])
    status, _, _ = run(
        capsys, "data", "convert", "folder", f"path={tmp_path / 'f'}", f"out={tmp_path / 'm.jsonl'}"
    )
    assert status == 0
    data = manifest(str(tmp_path / "m.jsonl"), size=8)
    assert [(split, len(of), of.folds("text").tolist()) for split, of in data.items()] == [
        *(("train", 1, [5]), ("val", 1, [5]), ("test", 1, [5]))
    ]


def test_a_name_that_is_no_unicode_text(tmp_path, capsys):
    name = os.fsdecode(b"caf\xe9")
    for k in range(2):
        image(tmp_path / name / f"{k}.png", k)
    (tmp_path / name / "x.txt").write_text("a café")
    status, _, _ = run(
        *(capsys, "data", "convert", "folder", f"path={tmp_path}", f"out={tmp_path / 'm.jsonl'}")
    )
    assert status == 0
    (line,) = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert line["image"] == [f"{name}/{k}.png" for k in range(2)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["folder", "path=none", "out=m.jsonl"], "there is no folder none"),
        (["folder", "path=.", "out=m.jsonl"], "holds no images"),
        (["folder", "path=.", "out=m"], "out must be a new file NAME.jsonl, got m"),
        (["folder", "path=."], "data convert folder needs out=OUT"),
        (["table", "path=t.csv", "out=t.jsonl"], "t.csv cannot be read: No such file"),
        (["table", "path=a.csv", "out=t.jsonl"], "names x, y: set for example"),
        (["table", "path=a.csv", "out=a.csv", "text=x"], "out must be a new file NAME.jsonl"),
        (["table", "path=hub:none", "out=t.jsonl"], "datasets cannot load 'none'"),
        (["tabel", "path=a.csv", "out=t.jsonl"], "did you mean 'table'"),
    ],
)
def test_what_cannot_be_converted(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    status, _, err = run(capsys, "data", "convert", *arguments)
    assert status == 2
    assert words in err
    assert len(err.splitlines()) == 1


def test_names_that_are_the_same_as_text(tmp_path):
    names = ["1", "1", "1 (2)", "1", "1 (2)"]
    found = [ManifestInstance(name, "", None, {"text": [name]}) for name in names]
    write_list(Instances({"text": "text"}, found), tmp_path / "m.jsonl")
    lines = (tmp_path / "m.jsonl").read_text().splitlines()
    ids = [json.loads(line)["id"] for line in lines]
    assert len(set(ids)) == 5
    assert (ids[0], ids[2]) == ("1", "1 (2)")  # the first of a name keeps it
