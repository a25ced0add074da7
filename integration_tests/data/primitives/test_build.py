"""The data set on disk: sizes, determinism, damage."""

import hashlib
import json
import multiprocessing
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from data.primitives.generate import generate
from filelock import FileLock

from mxmclr_plugin.data.primitives.build import VoxelStore, primitives
from mxmclr_plugin.data.primitives.classes import COLOURS, all_classes
from mxmclr_plugin.registry import DATASETS

SMALL = {"seed": 4, "samples": 2, "captions": 3, "classes": 40}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return primitives(tmp_path_factory.mktemp("full"))


def everything(splits):
    """All observations of all instances, by name."""
    return {
        name: (
            instance.observations["text"],
            [grid.numpy().tobytes() for grid in instance.observations["voxel"]],
        )
        for dataset in splits.values()
        for name, instance in zip(dataset.names, (dataset[k] for k in range(len(dataset))))
    }


def files_of(root):
    return {path.name: path.read_bytes() for path in root.glob("*/*")}


def test_full_size(full):
    assert {name: len(dataset) for name, dataset in full.items()} == {
        "train": 605,
        "val": 76,
        "test": 75,
    }
    ids = [set(dataset.ids.tolist()) for dataset in full.values()]
    assert set.union(*ids) == set(range(756))  # and so disjoint: 605 + 76 + 75 = 756
    names = [name for dataset in full.values() for name in dataset.names]
    assert len(set(names)) == 756
    grids = [fold for dataset in full.values() for fold in dataset.folds("voxel")]
    texts = [fold for dataset in full.values() for fold in dataset.folds("text")]
    assert set(grids) == {10}
    assert sum(grids) == 7_560
    assert (sum(texts), texts.count(254), texts.count(253)) == (191_850, 582, 174)


def test_grids_and_sentences_are_those_of_the_class(full):
    kinds = {kind.name: kind for kind in all_classes()}
    for name, instance in zip(full["test"].names, (full["test"][k] for k in range(75))):
        kind = kinds[name]
        assert kind == all_classes()[instance.id]
        assert len(set(instance.observations["text"])) == len(instance.observations["text"])
        grids = np.stack([grid.numpy() for grid in instance.observations["voxel"]])
        assert (grids.shape, grids.dtype) == ((10, 4, 32, 32, 32), np.uint8)
        inside = grids[:, 3:] == 255
        assert inside.any((1, 2, 3, 4)).all()
        # Noise is of the sample, not of the voxel.
        colours = grids.max((2, 3, 4))
        assert (grids == colours[:, :, None, None, None] * inside).all()
        assert np.abs(colours[:, :3] - np.array(COLOURS[kind.colour])).max() < 5 * 0.05 * 255
        assert len({grid.tobytes() for grid in grids}) == 10


def test_a_store_unpacks_what_was_packed():
    generator = np.random.default_rng(0)
    occupied = generator.random((3, 6, 6, 6)) < 0.4
    rgb = generator.integers(0, 256, (3, 3)).astype(np.uint8)
    packed = np.stack([np.packbits(grid) for grid in occupied])
    store = VoxelStore(packed, rgb, 6)
    assert len(store) == 3
    for k in range(3):
        expected = np.zeros((4, 6, 6, 6), np.uint8)
        for x, y, z in np.argwhere(occupied[k]):
            expected[:, x, y, z] = [*rgb[k], 255]
        assert (store[k].numpy() == expected).all()


def test_a_small_set_is_a_part_of_the_whole(full, tmp_path):
    whole = everything(full)
    part = everything(primitives(tmp_path, classes=20))
    assert part == {name: whole[name] for name in part}
    assert len(part) == 20


@pytest.mark.parametrize(
    ("classes", "sizes"), [(3, [1, 1, 1]), (20, [16, 2, 2]), (100, [80, 10, 10])]
)
def test_a_small_set_is_split_alike(tmp_path, classes, sizes):
    splits = primitives(tmp_path, classes=classes, samples=1, captions=1)
    assert [len(dataset) for dataset in splits.values()] == sizes
    assert list(splits) == ["train", "val", "test"]
    assert {dataset.folds("text").max() for dataset in splits.values()} == {1}


def test_arguments_matter(tmp_path):
    base = everything(primitives(tmp_path, **SMALL))
    again = everything(primitives(tmp_path, **SMALL))
    assert again == base
    other = everything(primitives(tmp_path, **{**SMALL, "seed": 5}))
    shared = base.keys() & other.keys()
    assert base.keys() != other.keys()
    assert shared
    assert all(base[name] != other[name] for name in shared)
    clean = primitives(tmp_path, **{**SMALL, "noise": 0.0})
    for dataset in clean.values():
        for k, name in enumerate(dataset.names):
            for grid in dataset[k].observations["voxel"]:
                assert tuple(grid[:3].amax((1, 2, 3)).tolist()) == COLOURS[name.split("-")[1]]
    small = primitives(tmp_path, **{**SMALL, "resolution": 24})
    assert small["test"][0].observations["voxel"][0].shape == (4, 24, 24, 24)


def test_data_are_what_they_were_before_they_could_be_made_hard(tmp_path):
    splits = primitives(tmp_path, **SMALL)
    # Made by the release without held_out, train_classes and described.
    assert splits["val"].ids.tolist() == [205, 338, 751, 202]
    assert splits["test"].ids.tolist() == [69, 221, 206, 230]
    assert {
        f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in tmp_path.glob("*/*")
        if path.suffix != ".json"
    } == {
        "70cb526b24fe8cd3/captions.jsonl": "a80b2d2cb2e45f69",
        "70cb526b24fe8cd3/occupancy.npy": "0e2b1eabfff7042b",
        "70cb526b24fe8cd3/rgb.npy": "2c791b8dee1e9a5b",
    }


def test_partial_sentences_are_files_of_their_own(tmp_path):
    base, *partial = (
        everything(primitives(tmp_path, **SMALL, described=described))
        for described in (None, 1, 2, 3)
    )
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 4
    seen = [base]
    for data in partial:
        assert data.keys() == base.keys()
        assert all(data[name][1] == base[name][1] for name in base)  # the same grids
        assert all(data[name][0] != other[name][0] for name in base for other in seen)
        seen.append(data)
    assert everything(primitives(tmp_path / "again", **SMALL, described=3)) == partial[-1]
    other = primitives(tmp_path / "other", **{**SMALL, "seed": 5}, described=3)
    shared = everything(other).keys() & base.keys()
    assert shared
    assert all(everything(other)[name][0] != partial[-1][name][0] for name in shared)


def test_a_split_is_of_the_same_observations(tmp_path):
    options = {"samples": 1, "captions": 2, "resolution": 24}
    base = everything(primitives(tmp_path, **options))
    for more in ({"train_classes": 30}, {"held_out": "shapes"}, {"held_out": "combinations"}):
        part = primitives(tmp_path, **options, **more)
        assert everything(part).items() <= base.items()
        assert all(
            all_classes()[index].name == name
            for dataset in part.values()
            for index, name in zip(dataset.ids, dataset.names)
        )
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_as_many_partial_sentences_as_there_are(tmp_path):
    folds = {
        described: set(
            primitives(tmp_path, classes=9, samples=1, described=described)["train"].folds("text")
        )
        for described in (1, 2, 3)
    }
    assert folds[1] == {84}  # 4 attributes x 7 templates with 3 nouns, where a shape is all
    assert folds[2] == {198}  # 6 pairs; a colour and a shape: 3 nouns x (7 + 4 templates)
    assert folds[3] <= {253, 254}


def test_what_is_said_beside_figures(tmp_path):
    options = {"samples": 1, "captions": 4, "resolution": 24}
    assert len(primitives(tmp_path, **options).notes) == 1
    _, held_out = primitives(tmp_path, **options, held_out="colours").notes
    tested = {
        name.split("-")[1]
        for name in primitives(tmp_path, **options, held_out="colours")["test"].names
    }
    assert all(colour in held_out for colour in tested)
    *_, ceiling = primitives(tmp_path, **options, described=3).notes
    assert "a sentence names 3 of 4 attributes" in ceiling


def test_two_processes_at_once_make_the_same_files(tmp_path):
    context = multiprocessing.get_context("forkserver")  # strings have other hashes there
    shared = tmp_path / "shared"
    processes = [context.Process(target=generate, args=(shared, SMALL)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    primitives(tmp_path / "own", **SMALL)
    assert files_of(shared) == files_of(tmp_path / "own")
    assert len(files_of(shared)) == 4
    assert len([path for path in shared.iterdir() if path.is_dir()]) == 1


def test_waits_for_who_is_at_it(tmp_path):
    primitives(tmp_path, **SMALL)
    (lock,) = tmp_path.glob("*.lock")
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    shutil.rmtree(folder)
    waiting = threading.Thread(target=primitives, args=(tmp_path,), kwargs=SMALL)
    with FileLock(lock):
        waiting.start()
        waiting.join(1)  # many times what it takes
        assert waiting.is_alive()
        assert not folder.exists()
    waiting.join(60)
    assert folder.exists()


def test_no_bar_where_there_is_no_terminal(tmp_path, capfd):
    primitives(tmp_path, **SMALL)
    assert capfd.readouterr() == ("", "")


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "occupancy.npy": [cut, flip, Path.unlink],
    "rgb.npy": [flip],
    "captions.jsonl": [cut, Path.unlink],
    "options.json": [cut],
}


@pytest.mark.parametrize(
    ("file", "damage"), [(file, damage) for file, ways in DAMAGE.items() for damage in ways]
)
def test_damage_is_noticed_and_made_good(tmp_path, file, damage):
    expected = everything(primitives(tmp_path, **SMALL))
    before = files_of(tmp_path)
    damage(next(tmp_path.glob(f"*/{file}")))
    assert files_of(tmp_path) != before
    with pytest.warns(UserWarning, match=r"is damaged \(.*\): making it anew"):
        assert everything(primitives(tmp_path, **SMALL)) == expected
    assert files_of(tmp_path) == before


@pytest.mark.filterwarnings("error")
def test_what_is_whole_is_not_made_again(tmp_path):
    primitives(tmp_path, **SMALL)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    primitives(str(tmp_path), **SMALL)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")} == written


def test_what_a_killed_run_left_is_written_over(tmp_path):
    expected = everything(primitives(tmp_path, **SMALL))
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    cut(folder / "rgb.npy")
    folder.rename(tmp_path / f".{folder.name}.part")
    assert everything(primitives(tmp_path, **SMALL)) == expected
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [folder.name]


def test_default_folder_and_the_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MXMCLR_CACHE", str(tmp_path))
    splits = DATASETS.build({"name": "primitives", **SMALL})
    options = json.loads(next((tmp_path / "primitives").glob("*/options.json")).read_text())
    assert options.items() >= SMALL.items()
    assert everything(splits) == everything(primitives(tmp_path / "elsewhere", **SMALL))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"resolution": 31}, "resolution must be a multiple of 2, got 31"),
        ({"resolution": 22}, "resolution must be 24 or more, got 22"),
        ({"samples": 0}, "samples must be 1 or more, got 0"),
        ({"captions": 0}, "captions must be 1 to 324, got 0"),
        ({"captions": 325}, "captions must be 1 to 324, got 325"),
        ({"classes": 2}, "classes must be 3 or more, got 2"),
        ({"classes": 757}, "classes must be 756 or less, got 757"),
        ({"noise": -0.1}, "noise must be 0 or more, got -0.1"),
        ({"held_out": "colors"}, "held_out must be colours, .*, got 'colors'"),
        ({"held_out": "shapes", "classes": 20}, "with held_out, set train_classes instead"),
        ({"train_classes": 0}, "train_classes must be 1 to 605 here, got 0"),
        ({"train_classes": 17, "classes": 20}, "train_classes must be 1 to 16 here, got 17"),
        ({"described": 0}, "described must be 1, 2, 3 or null, got 0"),
        ({"described": 4}, "described must be 1, 2, 3 or null, got 4"),
        ({"described": 2, "captions": 199}, "captions must be 1 to 198 with described=2, got 199"),
    ],
)
def test_options_out_of_range(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        primitives(tmp_path, **options)
    assert not any(tmp_path.iterdir())
