"""Images x strokes, from the archive and from the folders of the original."""

import numpy as np
import pytest
import torch
from PIL import Image

from mxmclr_plugin.data.omniglot.build import omniglot
from mxmclr_plugin.errors import DataError

CHARACTERS = 24


def archive(characters=CHARACTERS, seed=0):
    """Arrays of an archive of small drawings: each image is known by its ink."""
    generator = np.random.default_rng(seed)
    drawings = characters * 20
    ink = generator.random((characters, 20, 105 * 105)) < 0.1
    points, offsets = [], [0]
    for _ in range(drawings):
        for stroke in range(2):
            for _ in range(3):
                x, y = generator.uniform(0, 105, 2)
                points.append((x, -y, len(points), stroke))
        offsets.append(len(points))
    return {
        "images": np.packbits(ink, axis=-1),
        "image_shape": np.array([105, 105]),
        "stroke_points": np.array(points, dtype=np.float32),
        "stroke_offsets": np.array(offsets),
        "characters": np.array(
            [f"Alphabet{k // 4}/character{k % 4 + 1:02d}" for k in range(characters)]
        ),
    }


def save(folder, arrays):
    np.savez(folder / "omniglot_small.npz", **arrays)
    return str(folder)


def unpack(folder, arrays, evaluation=()):
    """The same drawings in the folders of the original."""
    ink = np.unpackbits(arrays["images"], axis=-1)[..., : 105 * 105].reshape(-1, 20, 105, 105)
    for k, name in enumerate(arrays["characters"]):
        part = "evaluation" if name.split("/")[0] in evaluation else "background"
        for drawer in range(20):
            stem = f"{k + 1:04d}_{drawer + 1:02d}"
            image = folder / f"images_{part}" / name / f"{stem}.png"
            strokes = folder / f"strokes_{part}" / name / f"{stem}.txt"
            for path in (image, strokes):
                path.parent.mkdir(parents=True, exist_ok=True)
            # As the original: one bit, ink black.
            Image.fromarray(ink[k, drawer] == 0).save(image)
            start, end = arrays["stroke_offsets"][k * 20 + drawer : k * 20 + drawer + 2]
            lines, before = ["START"], 0
            for x, y, t, stroke in arrays["stroke_points"][start:end]:
                if stroke != before:
                    lines.append("BREAK")
                    before = stroke
                lines.append(f"{x!s},{y!s},{t!s}")
            strokes.write_text("\n".join([*lines, "BREAK"]))
    return str(folder)


def by_name(data):
    return {
        name: (item.observations["image"], item.observations["strokes"])
        for dataset in data.values()
        for name, item in zip(dataset.names, map(dataset.__getitem__, range(len(dataset))))
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return unpack(tmp_path_factory.mktemp("folders"), archive(6), evaluation=("Alphabet1",))


def test_drawers_are_apart_and_characters_too(tmp_path):
    arrays = archive()
    data = omniglot(save(tmp_path, arrays), copies=0, size=105)
    assert [len(of) for of in data.values()] == [17, 2, 5]
    assert data.kinds == {"image": "image", "strokes": "strokes"}
    names = list(arrays["characters"])
    ink = np.unpackbits(arrays["images"], axis=-1)[..., : 105 * 105].reshape(-1, 20, 105, 105)
    for name, (images, strokes) in by_name(data).items():
        assert len(images) == len(strokes) == 10
        for drawer in range(10):
            # Black ink on white, of drawers 1 to 10.
            expected = 255 * (1 - torch.from_numpy(ink[names.index(name), drawer]))
            assert torch.equal(images[drawer], expected.expand(3, -1, -1))
    assert len(by_name(data)) == CHARACTERS
    assert "do not occur in training" in data.notes[0]
    assert "seed 0" in data.notes[0]


def test_the_original_folders_hold_the_same(tmp_path):
    arrays = archive(6)
    (tmp_path / "one").mkdir()
    packed = by_name(omniglot(save(tmp_path / "one", arrays), copies=0))
    unpacked = by_name(omniglot(unpack(tmp_path / "two", arrays), copies=0))
    assert packed.keys() == unpacked.keys()
    for name, (images, strokes) in packed.items():
        for mine, theirs in zip(strokes, unpacked[name][1]):
            torch.testing.assert_close(mine, theirs)
        for mine, theirs in zip(images, unpacked[name][0]):
            # Pillow rounds what it makes of one bit and of eight a little differently.
            assert (mine.int() - theirs.int()).abs().max() <= 1


def test_official_is_the_evaluation_set_where_it_is(folders):
    data = omniglot(folders)
    assert data["test"].names == ["Alphabet1/character01", "Alphabet1/character02"]
    assert len(data["val"]) == 1
    assert "evaluation set" in data.notes[0]
    by_character = omniglot(folders, split="character", seed=3)
    assert "drawn with seed 3" in by_character.notes[0]


def test_alphabets_can_be_held_out(tmp_path):
    data = omniglot(save(tmp_path, archive()), split="alphabet")
    alphabets = [{name.split("/")[0] for name in of.names} for of in data.values()]
    assert sum(map(len, alphabets)) == len(set().union(*alphabets)) == 6
    assert all(alphabet in data.notes[0] for alphabet in alphabets[2])


def test_training_images_are_copied_by_chance_and_measured_as_they_are(tmp_path):
    root = save(tmp_path, archive())
    data = omniglot(root, copies=3)
    assert set(data["train"].folds("image")) == {30}
    assert set(data["train"].folds("strokes")) == {10}
    assert set(data["test"].folds("image")) == {10}
    assert set(data.plain["train"].folds("image")) == {10}
    images = data["train"][0].observations["image"]
    assert images[0].dtype == torch.uint8
    assert images[0].shape == (3, 32, 32)
    assert not torch.equal(images[0], images[1])
    again = omniglot(root, copies=3)["train"][0].observations["image"]
    assert all(map(torch.equal, images, again))
    other = omniglot(root, copies=3, augment_seed=1)["train"][0].observations["image"]
    assert not torch.equal(images[0], other[0])


def test_files_that_are_missing_or_broken_are_listed(tmp_path):
    root = tmp_path
    unpack(root, archive(6))
    name = "Alphabet0/character01"
    (root / "images_background" / name / "0001_03.png").unlink()
    (root / "images_background" / name / "0001_04.png").write_text("none")
    (root / "strokes_background" / name / "0001_12.txt").write_text("START\n1;2;3\n")
    for path in (root / "strokes_background" / "Alphabet0" / "character02").iterdir():
        path.unlink()
    data = omniglot(str(root), copies=0)
    images, strokes = by_name(data)[name]
    assert (len(images), len(strokes)) == (8, 9)
    assert "Alphabet0/character02" not in by_name(data)
    kinds = [problem.kind for problem in data.problems]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "image missing": 1,
        "image unreadable": 1,
        "stroke file missing": 10,
        "stroke file unreadable": 1,
        "character incomplete": 1,
    }
    with pytest.raises(DataError, match="on_error=skip"):
        omniglot(str(root), on_error="raise")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "is no archive of Omniglot"),
        ({"images": np.zeros((3, 20, 5), np.uint8)}, "do not fit 6 characters"),
        ({"image_shape": np.array([0, 0])}, "do not fit"),
        ({"image_shape": np.array([10**9, 10**9])}, "do not fit"),
        ({"image_shape": np.array([105])}, "do not fit"),
        ({"stroke_offsets": np.arange(121)}, "stroke_points and stroke_offsets do not fit"),
        ({"stroke_points": np.full((720, 4), np.nan, np.float32)}, "do not fit each other"),
        ({"characters": np.array([{}] * 6, dtype=object)}, "is no archive of Omniglot"),
    ],
)
def test_archives_that_are_none(tmp_path, change, message):
    arrays = {k: v for k, v in {**archive(6), **change}.items() if v is not None}
    with pytest.raises(DataError, match=message):
        omniglot(save(tmp_path, arrays))


def test_several_archives_are_an_error(tmp_path):
    root = save(tmp_path, archive(6))
    np.savez(tmp_path / "other.npz", **archive(6))
    with pytest.raises(DataError, match=r"several archives, omniglot_small\.npz, other\.npz"):
        omniglot(root)


def test_what_is_not_there(tmp_path):
    with pytest.raises(DataError, match="root=FOLDER"):
        omniglot()
    with pytest.raises(DataError, match="holds neither"):
        omniglot(str(tmp_path))
    (tmp_path / "images_background").mkdir()
    with pytest.raises(DataError, match="no strokes_background: unpack it as well"):
        omniglot(str(tmp_path))
    (tmp_path / "omniglot_small.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(DataError, match="is no archive of Omniglot"):
        omniglot(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "drawer"}, ValueError, "split must be character, alphabet, official or null"),
        ({"split": "official"}, DataError, "images_background and images_evaluation"),
        ({"points": 1}, ValueError, "points must be 2 or more"),
        ({"copies": -1}, ValueError, "copies must be 0 or more"),
        ({"seed": -1}, ValueError, "seed must be 0 or more"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        omniglot(save(tmp_path, archive(6)), **options)


def test_the_real_ones(test_data):
    data = omniglot(str(test_data / "omniglot"))
    assert [len(of) for of in data.values()] == [170, 24, 48]
    image = data["test"][0].observations["image"][0]
    strokes = data["test"][0].observations["strokes"][0]
    assert 0.5 < (image > 200).float().mean() < 1  # paper
    assert strokes.shape == (64, 4)
    assert strokes[:, :2].abs().max() <= 1.1
    # Ink lies where its strokes went: of the same drawing, which the data sets keep apart.
    store, drawn = data["test"].stores["image"], data["test"].stores["strokes"]
    for k in range(0, 400, 40):
        x, y = (((drawn[k][:, :2] + 1) / 2) * 31).round().long().clamp(0, 31).T
        assert store[k][0, y, x].float().mean() < store[k][0].float().mean() - 40
