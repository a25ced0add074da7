"""What cannot be used is listed, or stops the run."""

import json

import pytest
from data.captioned_images.sets import image, karpathy, names, tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from mxmclr_plugin.data.captioned_images.annotations import read_photos
from mxmclr_plugin.data.captioned_images.build import captioned_images
from mxmclr_plugin.data.problems import ProblemLog
from mxmclr_plugin.errors import DataError

SPLITS = ["train", "train", "train", "train", "val", "test", "test"]


def spoiled(root):
    """A set with one problem of each sort; the first four and the last photos are whole."""
    file = karpathy(root, ["train", "train", "val", "test", *["train"] * 15])
    photos = names(19)
    entries = json.loads(file.read_text())["images"]
    (root / "images" / photos[4]).unlink()
    whole = (root / "images" / photos[5]).read_bytes()
    (root / "images" / photos[5]).write_bytes(whole[: len(whole) // 2])
    (root / "images" / photos[6]).write_text("no image")
    entries[7]["sentences"] = []
    entries[8]["sentences"] = [{"raw": "  "}, {"raw": 3}, "a plain string"]
    entries[9]["split"] = "later"
    entries[10]["filename"] = "../../secret.jpg"
    entries[11] = [1]
    entries[12]["filename"] = photos[0]
    entries.append({**entries[0], "filename": "x" * 5000 + "\0.jpg"})
    file.write_text(json.dumps({"images": entries}))
    image(root / "images" / "extra.png", 200)


def test_each_is_listed(tmp_path):
    spoiled(tmp_path)
    data = captioned_images(str(tmp_path), size=8)
    photos = names(19)
    assert data["train"].names == [photos[0], photos[1], photos[8], *photos[13:]]
    assert data["train"][2].observations["text"] == ["a plain string"]
    listed = {(problem.kind, problem.where.rpartition("/")[2]) for problem in data.problems}
    assert listed == {
        ("image missing", photos[4]),
        ("image unreadable", photos[5]),
        ("image unreadable", photos[6]),
        ("photo without captions", photos[7]),
        ("caption empty", "dataset_x.json: images[8]"),
        ("caption unreadable", "dataset_x.json: images[8]"),
        ("photo entry unreadable", "dataset_x.json: images[9]"),
        ("image outside its folder", "secret.jpg"),
        ("photo entry unreadable", "dataset_x.json: images[11]"),
        ("photo repeated", photos[0]),
        ("image missing", "x" * 5000 + "\0.jpg"),
        # Those that no entry names: the extra one, and those of entries that were not read.
        ("photo without captions", "extra.png"),
        *(("photo without captions", photos[k]) for k in (9, 10, 11, 12)),
    }


def test_or_stops(tmp_path):
    spoiled(tmp_path)
    with pytest.raises(DataError, match="on_error=skip"):
        captioned_images(str(tmp_path), size=8, on_error="raise")


def test_lines_of_another_form(tmp_path):
    file = tokens(tmp_path, 4)
    file.write_text(file.read_text() + "no tab here\n\n1000_ab0.jpg\tno number\n")
    data = captioned_images(str(tmp_path), size=8)
    assert [(p.kind, p.where) for p in data.problems] == [
        ("line unreadable", f"{file}:21"),
        ("line unreadable", f"{file}:23"),
    ]


def test_nothing_left(tmp_path):
    lines = [f"/etc/{photo}#0\ta caption\n" for photo in names(4)]
    (tmp_path / "x.token").write_text("".join(lines))
    with pytest.raises(DataError, match="image outside its folder"):
        captioned_images(str(tmp_path))
    (tmp_path / "x.token").unlink()
    karpathy(tmp_path, SPLITS)
    for path in (tmp_path / "images").iterdir():
        path.write_text("broken")
    with pytest.raises(DataError, match=r"no image in .* can be used: .*unreadable"):
        captioned_images(str(tmp_path), size=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4}, "size must be 8"),
        ({"copies": 3}, "copies of an image would be the same"),
        ({"augment": "crp"}, "unknown augmentation 'crp': did you mean 'crop'"),
        ({"augment": "crop", "copies": 0}, "copies must be 1"),
        ({"on_error": "ignore"}, "on_error must be skip or raise"),
        ({"seed": -1, "annotations": "x.token"}, "seed must be 0 or more"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, message):
    karpathy(tmp_path, SPLITS)
    tokens(tmp_path, 5, name="x.token", folder="images")
    if "annotations" in options:
        options = {**options, "annotations": str(tmp_path / "x.token")}
    with pytest.raises(ValueError, match=message):
        captioned_images(str(tmp_path), **options)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda x: (
        st.lists(x, max_size=3)
        | st.dictionaries(
            st.sampled_from(["images", "filename", "filepath", "split", "sentences", "raw", "x"]), x
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(content=JSON | st.fixed_dictionaries({"images": st.lists(JSON, max_size=3)}))
def test_any_json_is_read_or_named(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "dataset_any.json"
    path.write_text(json.dumps(content))
    log = ProblemLog()
    entries = content.get("images") if isinstance(content, dict) else content
    try:
        photos, _ = read_photos(path, log)
    except DataError as error:
        message = str(error)
    else:
        assert isinstance(entries, list)
        assert photos
        # Rows of a list with the same image are one photo.
        assert isinstance(content, list) or len(photos) + len(log.problems) >= len(entries)
        return
    assert "dataset_any" in message
    assert len(message.splitlines()) == 1
