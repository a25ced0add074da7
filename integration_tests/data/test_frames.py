"""Data sets of tables in memory: pandas, Hugging Face, lists."""

import numpy as np
import pandas
import pytest
import torch
from data.captioned_images.sets import image

from mxmclr_plugin import MultifoldDataset
from mxmclr_plugin.data.readers.image import read_image, to_rgb


def products(folder):
    for k in range(4):
        image(folder / f"{k}.png", 40 * k)
    return pandas.DataFrame(
        {
            "sku": ["a", "b", "a", "b"],
            "title": ["red", None, float("nan"), "blue"],
            "notes": [["x", "y"], [], None, ["z"]],
            "photo": [str(folder / f"{k}.png") for k in range(4)],
            "vector": [np.full(3, k, dtype=np.float32) for k in range(4)],
        }
    )


def read(path):
    return read_image(path, 8)


COLUMNS = {"text": ["title", "notes"], "image": "photo", "vector": ["vector"]}


def check(data):
    assert data.names == ["a", "b"]
    assert [list(data[k].observations["text"]) for k in range(2)] == [
        ["red", "x", "y"],
        ["blue", "z"],
    ]
    shades = [[int(i.float().mean()) for i in data[k].observations["image"]] for k in range(2)]
    assert shades == [[0, 80], [40, 120]]
    vectors = [[v.tolist() for v in data[k].observations["vector"]] for k in range(2)]
    assert vectors == [[[0.0] * 3, [2.0] * 3], [[1.0] * 3, [3.0] * 3]]


def test_pandas(tmp_path):
    frame = products(tmp_path)
    check(MultifoldDataset.from_frame(frame, COLUMNS, id="sku", read={"image": read}))
    check(
        MultifoldDataset.from_frame(
            frame.to_dict(orient="list"), COLUMNS, id="sku", read={"image": read}
        )
    )
    rows = MultifoldDataset.from_frame(frame.iloc[[0, 3]], {"text": "title"})
    assert [list(rows[k].observations["text"]) for k in range(2)] == [["red"], ["blue"]]


def test_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")
    frame = products(tmp_path)
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="list")
    rows["vector"] = [vector.tolist() for vector in rows["vector"]]
    data = datasets.Dataset.from_dict(rows).cast_column("photo", datasets.Image())

    def resized(shown):
        return torch.from_numpy(np.array(to_rgb(shown).resize((8, 8)))).permute(2, 0, 1)

    made = MultifoldDataset.from_frame(
        data, {**COLUMNS, "text": ["title", "notes"]}, id="sku", read={"image": resized}
    )
    assert made.folds("vector").tolist() == [6, 6]  # a list is of several observations
    texts = [list(made[k].observations["text"]) for k in range(2)]
    assert texts == [["red", "x", "y"], ["blue", "z"]]
    shades = [[int(i.float().mean()) for i in made[k].observations["image"]] for k in range(2)]
    assert shades == [[0, 80], [40, 120]]


def test_a_local_folder_of_hugging_face(tmp_path):
    pytest.importorskip("datasets")
    for k, split in enumerate(("train", "train", "test")):
        image(tmp_path / "photos" / split / f"{k}.png", 40 * k)
    for split, names in (("train", "01"), ("test", "2")):
        lines = [f'{{"file_name": "{k}.png", "text": "photo {k}"}}' for k in names]
        (tmp_path / "photos" / split / "metadata.jsonl").write_text("\n".join(lines))

    def mean(shown):
        return torch.tensor([np.array(to_rgb(shown)).mean()])

    data = MultifoldDataset.from_hub(
        str(tmp_path / "photos"), {"image": "image", "text": "text"}, read={"image": mean}
    )
    found = {
        data[k].observations["text"][0]: round(float(data[k].observations["image"][0]))
        for k in range(len(data))
    }
    assert found == {"photo 0": 0, "photo 1": 40}


def test_what_is_no_such_table(tmp_path):
    frame = products(tmp_path)
    with pytest.raises(ValueError, match="there is no column 'name', there are sku, title"):
        MultifoldDataset.from_frame(frame, {"text": "name"})
    with pytest.raises(ValueError, match="row 1 has no 'title'"):
        MultifoldDataset.from_frame(frame, {"text": "notes"}, id="title")
    with pytest.raises(ValueError, match="instance '1' has no observation"):
        MultifoldDataset.from_frame(frame, {"text": "title"})
