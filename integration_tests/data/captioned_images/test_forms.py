"""Each form of annotation, in the layouts that users have."""

import gzip
import json
import os
import shutil
from pathlib import Path

import pandas
import pytest
from data.captioned_images.sets import (
    captions_of,
    coco,
    content,
    image,
    kaggle,
    karpathy,
    names,
    shade,
    tokens,
)
from PIL import Image

from mxmclr_plugin.data.captioned_images.build import captioned_images
from mxmclr_plugin.errors import DataError

SPLITS = ["train", "restval", "val", "test", "train", "test"]


def whole(data):
    return {k: v for split in ("train", "val", "test") for k, v in content(data[split]).items()}


def test_karpathys_splits(tmp_path):
    karpathy(tmp_path, SPLITS)
    data = captioned_images(str(tmp_path), size=8)
    photos = names(6)
    assert data["train"].names == [photos[0], photos[1], photos[4]]
    assert data["val"].names == [photos[2]]
    assert data["test"].names == [photos[3], photos[5]]
    assert whole(data) == {photo: (k, captions_of(k)) for k, photo in enumerate(photos)}
    assert data.notes == ()
    assert data.problems == ()
    assert data.kinds == {"image": "image", "text": "text"}


def test_cocos_folders_in_karpathys_file(tmp_path):
    karpathy(tmp_path, SPLITS, folder="images", filepath=["train2014", "val2014"])
    data = captioned_images(str(tmp_path), size=8)
    expected = {
        f"{'val2014' if k % 2 else 'train2014'}/{photo}": (k, captions_of(k))
        for k, photo in enumerate(names(6))
    }
    assert whole(data) == expected


def test_all_images_in_one_folder_though_the_file_names_two(tmp_path):
    karpathy(tmp_path, SPLITS, folder="images", filepath=["train2014", "val2014"])
    for path in (tmp_path / "images").glob("*/*"):
        shutil.move(path, tmp_path / "images" / path.name)
    assert len(whole(captioned_images(str(tmp_path), size=8))) == 6


@pytest.mark.parametrize("gone", [(), ("b",), ("a", "c")])
def test_names_that_repeat_from_folder_to_folder(tmp_path, gone):
    """An image that is missing is not replaced by one of its name in another folder."""
    entries = []
    for k in range(30):
        folder, name = "abc"[k // 10], f"{k % 10}.png"
        (tmp_path / "images" / folder).mkdir(parents=True, exist_ok=True)
        if not (folder in gone and k % 10 == 3):
            Image.new("RGB", (9, 9), (k, k, k)).save(tmp_path / "images" / folder / name)
        sentences = [{"raw": f"{folder} {k % 10}"}]
        split = ("train", "val", "test")[k % 3]
        entries.append(
            {"filepath": folder, "filename": name, "split": split, "sentences": sentences}
        )
    (tmp_path / "dataset_x.json").write_text(json.dumps({"images": entries}))
    data = captioned_images(str(tmp_path), size=8)
    expected = {
        f"{f}/{k}.png": (10 * n + k, [f"{f} {k}"])
        for n, f in enumerate("abc")
        for k in range(10)
        if not (f in gone and k == 3)
    }
    assert whole(data) == expected
    assert [problem.kind for problem in data.problems] == ["image missing"] * len(gone)


def test_bare_names_are_taken_where_they_are_unique(tmp_path):
    entries = [
        {"filepath": folder, "filename": name, "split": split, "sentences": [{"raw": "a"}]}
        for folder, name, split in [
            *(("a", "0.png", "train"), ("b", "1.png", "val"), ("a", "2.png", "test")),
            *(("a", "3.png", "train"), ("b", "3.png", "train")),
            *(("a", "4.png", "train"), ("b", "5.png", "train")),
        ]
    ]
    for k in range(6):
        Image.new("RGB", (9, 9), (k, k, k)).save(tmp_path / f"{k}.png")
    (tmp_path / "dataset_x.json").write_text(json.dumps({"images": entries}))
    data = captioned_images(str(tmp_path), size=8)
    assert sorted(whole(data)) == ["a/0.png", "a/2.png", "a/4.png", "b/1.png", "b/5.png"]
    assert [(p.kind, p.where) for p in data.problems[:2]] == [
        ("image ambiguous", "a/3.png"),
        ("image ambiguous", "b/3.png"),
    ]


def test_other_files_beside_the_annotations(tmp_path):
    kaggle(tmp_path, 4)
    (tmp_path / "dataset_info.json").write_text('{"features": {"images": 1}}')
    (tmp_path / "results.csv").write_text("epoch,loss\n1,0.5\n")
    assert len(whole(captioned_images(str(tmp_path), size=8))) == 4
    (tmp_path / "captions.txt").unlink()
    (tmp_path / "dataset_info.json").unlink()
    with pytest.raises(DataError, match="the head should be image,caption, got epoch,loss"):
        captioned_images(str(tmp_path), size=8)


@pytest.mark.parametrize("folder", ["flickr30k-images", "a/b/c", "."])
def test_tokens(tmp_path, folder):
    tokens(tmp_path, 12, folder=folder)
    data = captioned_images(str(tmp_path), size=8)
    assert whole(data) == {photo: (k, captions_of(k)) for k, photo in enumerate(names(12))}
    assert [len(data[split]) for split in ("train", "val", "test")] == [10, 1, 1]
    (note,) = data.notes
    assert "no official split" in note
    assert "seed 0" in note
    other = captioned_images(str(tmp_path), size=8, seed=5)
    assert [o.names for o in other.values()] != [d.names for d in data.values()]
    assert sorted(whole(other)) == sorted(whole(data))


def test_flickr8ks_lists(tmp_path):
    photos = names(6)
    tokens(tmp_path, 6, name="Flickr8k.token.txt", folder="Flicker8k_Dataset")
    # What else its archives hold.
    shutil.copy(tmp_path / "Flickr8k.token.txt", tmp_path / "Flickr8k.lemma.token.txt")
    for file in ("Flickr8k.token.txt", f"Flicker8k_Dataset/{photos[0]}"):
        (tmp_path / file).with_name(f"._{Path(file).name}").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "Flickr_8k.trainImages.txt").write_text(f"{photos[5]}\n{photos[0]}\n")
    (tmp_path / "Flickr_8k.devImages.txt").write_text(f"{photos[1]}\n")
    (tmp_path / "Flickr_8k.testImages.txt").write_text(f"{photos[2]}\n{photos[4]}\n")
    data = captioned_images(str(tmp_path), size=8)
    assert {split: of.names for split, of in data.items()} == {
        "train": [photos[0], photos[5]],
        "val": [photos[1]],
        "test": [photos[2], photos[4]],
    }
    assert data.notes == ("1 photos are in no official split and not used",)
    assert data.problems == ()


def test_the_lists_of_flickr30k_entities(tmp_path):
    photos = names(4)
    tokens(tmp_path, 4)
    for split, of_split in (("train", photos[:2]), ("val", photos[2:3]), ("test", photos[3:])):
        stems = "\n".join(photo.removesuffix(".jpg") for photo in of_split)
        (tmp_path / f"{split}.txt").write_text(stems)
    data = captioned_images(str(tmp_path), size=8)
    assert (data["train"].names, data["test"].names) == (photos[:2], photos[3:])
    assert data.notes == ()


@pytest.mark.parametrize("quoted", [True, False])
def test_kaggles_table(tmp_path, quoted):
    kaggle(tmp_path, 5, quoted=quoted)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "captions.txt").write_text("image,caption\n")
    data = captioned_images(str(tmp_path), size=8)
    assert whole(data) == {photo: (k, captions_of(k)) for k, photo in enumerate(names(5))}


def test_the_table_with_bars(tmp_path):
    kaggle(tmp_path, 4, folder="flickr30k_images/flickr30k_images")
    lines = ["image_name| comment_number| comment"]
    for k, photo in enumerate(names(4)):
        lines += [f"{photo}| {c}| {text} ." for c, text in enumerate(captions_of(k))]
    (tmp_path / "captions.txt").unlink()
    (tmp_path / "results.csv").write_text("\n".join([*lines, f"{photo}| 4   no bar"]))
    data = captioned_images(str(tmp_path), size=8)
    expected = {p: (k, [f"{t} ." for t in captions_of(k)]) for k, p in enumerate(names(4))}
    assert whole(data) == expected
    assert [problem.kind for problem in data.problems] == ["line unreadable"]


def test_cocos_own_files(tmp_path):
    coco(tmp_path, train=12, val=3)
    data = captioned_images(str(tmp_path), size=8)
    assert [len(of) for of in data.values()] == [11, 1, 3]
    assert data["test"].names == [f"val2017/{k:012d}.jpg" for k in (12, 13, 14)]
    for name, (gray, captions) in whole(data).items():
        k = int(name[-16:-4])
        assert (gray, sorted(captions)) == (k, sorted(captions_of(k)))
    assert "COCO's val photos are the test set" in data.notes[0]
    assert "1 photos of val were drawn from those of train" in data.notes[1]


def test_one_of_cocos_files_alone(tmp_path):
    coco(tmp_path, train=2, val=10)
    file = tmp_path / "annotations" / "captions_val2017.json"
    data = captioned_images(str(tmp_path), annotations=str(file), size=8)
    assert [len(of) for of in data.values()] == [8, 1, 1]
    assert "no official split" in data.notes[0]


def test_an_image_that_lies_in_two_folders(tmp_path):
    """Copies are one image; two images of one name are none."""
    karpathy(tmp_path, SPLITS)
    shutil.copytree(tmp_path / "images", tmp_path / "more" / "images")
    assert len(whole(captioned_images(str(tmp_path), size=8))) == 6
    Image.new("RGB", (9, 9)).save(tmp_path / "more" / "images" / names(6)[0])
    data = captioned_images(str(tmp_path), size=8)
    assert names(6)[0] not in whole(data)
    assert data.problems[0].kind == "image ambiguous"
    data = captioned_images(str(tmp_path), images=str(tmp_path / "more" / "images"), size=8)
    assert len(whole(data)) == 6


def test_several_folders_of_images(tmp_path):
    karpathy(tmp_path, SPLITS)
    (tmp_path / "other").mkdir()
    for name in names(6)[:3]:
        shutil.move(tmp_path / "images" / name, tmp_path / "other" / name)
    expected = {photo: (k, captions_of(k)) for k, photo in enumerate(names(6))}
    assert whole(captioned_images(str(tmp_path), size=8)) == expected
    both = os.pathsep.join([str(tmp_path / "images"), str(tmp_path / "other")])
    assert whole(captioned_images(str(tmp_path), images=both, size=8)) == expected


def test_a_split_that_loses_its_images(tmp_path):
    karpathy(tmp_path, [*SPLITS, "test", "val"])
    for k in (3, 5):
        (tmp_path / "images" / names(6)[k]).unlink()
    with pytest.raises(DataError, match=r"only 1 of 3 photos of the split 'test'.*images were"):
        captioned_images(str(tmp_path), size=8)


@pytest.mark.parametrize("named", ["a\\{}.png", "a/{}.PNG", "./a/{}.png"])
def test_names_as_windows_and_cameras_write_them(tmp_path, named):
    for k in range(5):
        image(tmp_path / "images" / "a" / f"{k}.png", k)
    lines = [f"{named.format(k)},caption {k}" for k in range(5)]
    (tmp_path / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    data = captioned_images(str(tmp_path), size=8)
    assert sorted(whole(data).values()) == [(k, [f"caption {k}"]) for k in range(5)]


def blip(root):
    """coco_karpathy_train.json and the others: lists of image and captions."""
    for number, split in enumerate(("train", "val", "test")):
        entries = [
            {"image": f"{split}2014/{k}.jpg", "caption": captions_of(k), "image_id": k}
            for k in range(4 * number, 4 * number + 4)
        ]
        (root / f"coco_karpathy_{split}.json").write_text(json.dumps(entries))


def flickr_csv(root):
    frame = pandas.DataFrame(
        [
            {
                "raw": json.dumps(captions_of(k)),
                "sentids": "[1, 2]",
                "split": split,
                "filename": f"{split}2014/{k}.jpg",
                "img_id": k,
            }
            for number, split in enumerate(("train", "val", "test"))
            for k in range(4 * number, 4 * number + 4)
        ]
    )
    frame.to_csv(root / "flickr_annotations_30k.csv", index=False)


def image_folder(root):
    """metadata.jsonl in the folder of each split, as Hugging Face's image folders have it."""
    for number, split in enumerate(("train", "val", "test")):
        lines = [
            json.dumps({"file_name": f"{k}.jpg", "text": captions_of(k)})
            for k in range(4 * number, 4 * number + 4)
        ]
        (root / f"{split}2014").rename(root / split)
        (root / split / "metadata.jsonl").write_text("\n".join(lines))


def open_clip_csv(root):
    """filepath TAB title, with gzip, in Latin-1: one file for each split."""
    for number, split in enumerate(("train", "validation", "test")):
        folder = "val" if split == "validation" else split
        rows = [
            f"{folder}2014/{k}.jpg\t{text}"
            for k in range(4 * number, 4 * number + 4)
            for text in captions_of(k)
        ]
        content = "\n".join(["filepath\ttitle", *rows])
        (root / f"{split}.csv.gz").write_bytes(gzip.compress(content.encode()))


@pytest.mark.parametrize("write", [blip, flickr_csv, image_folder, open_clip_csv])
def test_lists_with_a_split(tmp_path, write):
    for number, split in enumerate(("train", "val", "test")):
        for k in range(4 * number, 4 * number + 4):
            image(tmp_path / f"{split}2014" / f"{k}.jpg", k)
    write(tmp_path)
    data = captioned_images(str(tmp_path), size=8)
    assert data.problems == ()
    assert data.notes == ()
    for number, split in enumerate(("train", "val", "test")):
        found = sorted(content(data[split]).values())
        assert found == [(k, captions_of(k)) for k in range(4 * number, 4 * number + 4)]


def test_absolute_paths(tmp_path):
    """As open_clip's tables have them; those that lead out of the folder are not read."""
    rows = []
    for k in range(6):
        image(tmp_path / "a" / "b" / f"{k}.png", k)
        rows.append({"filepath": str(tmp_path / "a" / "b" / f"{k}.png"), "title": f"caption {k}"})
    rows.append({"filepath": str(tmp_path / "a" / ".." / "x.png"), "title": "out"})
    rows.append({"filepath": str(tmp_path / "x.png"), "title": "out"})
    image(tmp_path / "x.png", 9)
    pandas.DataFrame(rows).to_csv(tmp_path / "a" / "train.csv", sep="\t", index=False)
    data = captioned_images(str(tmp_path / "a"), size=8)
    assert sorted(whole(data).values()) == [(k, [f"caption {k}"]) for k in range(6)]
    assert [p.kind for p in data.problems] == ["image outside its folder"] * 2


def test_another_encoding(tmp_path):
    kaggle(tmp_path, 4)
    text = (tmp_path / "captions.txt").read_text().replace("three", "trois étoiles")
    (tmp_path / "captions.txt").write_text(text, encoding="cp1252")
    data = captioned_images(str(tmp_path), size=8)
    (reason, *_) = {problem.what for problem in data.problems}
    assert "byte 0xe9 is no UTF-8" in reason
    assert "set encoding=cp1252" in reason
    data = captioned_images(str(tmp_path), size=8, encoding="cp1252")
    assert data.problems == ()
    assert whole(data)[names(4)[1]][1][2] == "trois étoiles 1"
    with pytest.raises(DataError, match="encoding: unknown encoding: cp12520"):
        captioned_images(str(tmp_path), size=8, encoding="cp12520")


def test_annotations_and_images_override(tmp_path):
    karpathy(tmp_path / "one", SPLITS)
    (tmp_path / "one" / "dataset_x.json").rename(tmp_path / "mine.json")
    kaggle(tmp_path / "one", 6)  # would be found otherwise
    data = captioned_images(
        annotations=str(tmp_path / "mine.json"), images=str(tmp_path / "one" / "images"), size=8
    )
    assert len(data["test"]) == 2
    data = captioned_images(str(tmp_path / "one"), annotations=str(tmp_path / "mine.json"), size=8)
    assert len(data["test"]) == 2


def test_several_files_of_one_form_are_an_error(tmp_path):
    file = karpathy(tmp_path, SPLITS)
    shutil.copy(file, tmp_path / "dataset_y.json")
    with pytest.raises(DataError, match=r"several annotation files.*data.annotations="):
        captioned_images(str(tmp_path))
    coco(tmp_path / "c", 2, 2)
    coco(tmp_path / "c", 2, 2, year="2014")
    with pytest.raises(DataError, match="several annotation files"):
        captioned_images(str(tmp_path / "c"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no annotations.*data.annotations="),
        ({"dataset_x.json": "{"}, "dataset_x.json is no JSON"),
        ({"dataset_x.json": "[" * 100_000}, "dataset_x.json is no JSON"),
        ({"dataset_x.json": "[1, 2]"}, "should hold"),
        ({"dataset_x.json": '{"images": []}'}, "holds no photos"),
        ({"captions_train2017.json": '{"annotations": [], "images": 3}'}, "should hold"),
        ({"captions.txt": "photo;words\na;b"}, "the head should be image,caption"),
        ({"x.token": b"\xff\xfe\x00"}, "is text in UTF-16: save it as UTF-8"),
        ({"captions.txt": "image,text\nname"}, "holds no photos"),
        ({"x.token": "a.jpg#0\tb"}, "data.images="),
    ],
)
def test_what_is_no_such_data_is_named(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        captioned_images(str(tmp_path))


def test_where_nothing_is(tmp_path):
    with pytest.raises(DataError, match="root=FOLDER"):
        captioned_images()
    with pytest.raises(DataError, match="there is no"):
        captioned_images(str(tmp_path / "nowhere"))


def test_real_photos(test_data):
    data = captioned_images(str(test_data / "coco_mini"))
    entries = json.loads((test_data / "coco_mini" / "dataset_coco_mini.json").read_text())["images"]
    for split, dataset in data.items():
        of_split = [entry for entry in entries if entry["split"] == split]
        assert dataset.names == [entry["filename"] for entry in of_split]
        assert set(dataset.folds("text").tolist()) == {5}
        raw = [sentence["raw"].strip() for sentence in of_split[0]["sentences"]]
        assert dataset[0].observations["text"] == raw
        assert dataset[0].observations["image"][0].shape == (3, 64, 64)
        assert 10 < shade(dataset[0].observations["image"][0]) < 245
    assert data.problems == ()


def test_folds_of_a_cross_validation_are_no_split(tmp_path):
    rows = [f"{k}.jpg,photo {k},{k % 5}" for k in range(6)]
    for k in range(6):
        image(tmp_path / f"{k}.jpg", k)
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,caption,fold", *rows]) + "\n")
    data = captioned_images(str(tmp_path), size=8)
    assert data.problems == ()
    assert sum(map(len, data.values())) == 6
