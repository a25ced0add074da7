"""Text2Shape's and TriCoLo's layouts; what is left out; genuine files."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from data.shapenet.roots import (
    SYNSETS,
    original,
    shapes,
    split_up,
    tricolo_2022,
    tricolo_2023,
    write_csv,
    write_images,
)

from mxmclr_plugin.data.rendering import render_views
from mxmclr_plugin.data.shapenet.build import shapenet
from mxmclr_plugin.errors import DataError


def contents(splits):
    """Captions and grids by id, over all splits."""
    return {
        name: (
            sorted(dataset[k].observations["text"]),
            [grid.numpy() for grid in dataset[k].observations["voxel"]],
        )
        for dataset in splits.values()
        for k, name in enumerate(dataset.names)
    }


def assert_holds(splits, made):
    found = contents(splits)
    assert found.keys() == {model for model, *_ in made}
    for model, _, captions, grid in made:
        texts, grids = found[model]
        assert texts == sorted(captions)
        assert len(grids) == 1
        assert (grids[0] == np.transpose(grid, (0, 2, 3, 1))).all()  # vertical last


def test_the_original_layout(tmp_path):
    made = original(tmp_path)
    splits = shapenet(str(tmp_path))
    assert_holds(splits, made)
    assert {name: len(dataset) for name, dataset in splits.items()} == {
        "train": 20,
        "val": 2,
        "test": 2,
    }
    assert splits.kinds == {"text": "text", "voxel": "voxel"}
    assert splits.problems == ()
    (note,) = splits.notes
    assert "not the official one: 24 shapes are split by the seed 0 into 20/2/2" in note
    assert shapenet(str(tmp_path))["test"].names == splits["test"].names
    others = [shapenet(str(tmp_path), seed=seed)["test"].names for seed in range(1, 4)]
    assert any(names != splits["test"].names for names in others)


@pytest.mark.parametrize("form", [tricolo_2023, tricolo_2022])
def test_tricolos_layouts(tmp_path, form):
    made = form(tmp_path)
    splits = shapenet(str(tmp_path))
    assert_holds(splits, made)
    assert (splits.notes, splits.problems) == ((), ())
    for split, part in split_up(made).items():
        assert splits[split].names == sorted(model for model, *_ in part)


def test_tricolos_images(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "old").mkdir()
    made = tricolo_2023(tmp_path / "new")
    splits = shapenet(str(tmp_path / "new"), views=6, view_size=32)
    assert splits.kinds["views"] == "views"
    numbers = {model: k for k, (model, *_) in enumerate(made)}
    for name, instance in zip(splits["test"].names, (splits["test"][k] for k in range(4))):
        (stack,) = instance.observations["views"]
        assert stack.shape == (6, 3, 32, 32)
        first = 10 * numbers[name] % 250
        assert stack[:, 0, 5, 5].tolist() == [first + k for k in (0, 2, 4, 6, 8, 10)]
    tricolo_2022(tmp_path / "old")
    splits = shapenet(str(tmp_path / "old"), views=12, separate_views=True, view_size=16)
    assert splits.kinds["image"] == "image"
    images = splits["val"][0].observations["image"]
    assert len(images) == 12
    assert images[7][:, 3, 3].tolist() == [255, 0, 0]  # RGB now


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("preprocessed/multiview_imgs", "{}.jpg"),
        ("224", "{}.png"),
        ("images", "model_r_{:03d}.png"),
        ("given", "{}.png"),
    ],
)
def test_images_that_lie_there(tmp_path, folder, name):
    made = original(tmp_path)
    write_images(tmp_path / folder, made, 12, name)
    for model, category, *_ in made:  # what renderers leave beside them
        beside = tmp_path / folder / SYNSETS[category] / model
        (beside / "0_depth0001.png").write_bytes(b"")
        (beside / "notes.txt").write_text("")
    images = folder if folder == "given" else None
    splits = shapenet(str(tmp_path), views=6, view_size=16, images=images)
    (stack,) = splits["test"][0].observations["views"]
    assert stack.shape == (6, 3, 16, 16)
    assert stack[:, 0, 8, 8].tolist() == [0, 2, 4, 6, 8, 10]
    assert splits.problems == ()
    single = shapenet(str(tmp_path), views=12, view_size=16, images=images, separate_views=True)
    shown = [int(image[0, 8, 8]) for image in single["test"][0].observations["image"]]
    assert shown == list(range(12))
    assert "rendered" in str(
        shapenet(str(tmp_path), views=6, view_size=16, views_from="grids").notes
    )


def test_rendered_views(tmp_path):
    original(tmp_path)
    splits = shapenet(str(tmp_path), views=6, view_size=24)
    assert any("rendered from the voxel grids" in note for note in splits.notes)
    for dataset in splits.values():
        seen = dataset[0].observations
        expected = render_views(torch.stack(list(seen["voxel"])), 6, 24)
        assert torch.equal(torch.stack(list(seen["views"])), expected)


def test_resolutions(tmp_path):
    made = original(tmp_path, 12, resolution=64)
    for resolution in (32, 64):
        splits = shapenet(str(tmp_path), resolution=resolution)
        grid = contents(splits)[made[0][0]][1][0]
        assert grid.shape == (4, resolution, resolution, resolution)
        assert (grid[:, :: resolution // 32, :: resolution // 32, :: resolution // 32]).any()
    assert_holds(shapenet(str(tmp_path), resolution=32), made)
    with pytest.raises(DataError, match="no voxel grids"):
        shapenet(str(tmp_path), resolution=128)


def test_categories(tmp_path):
    made = original(tmp_path)
    for category in ("chair", "table"):
        wanted = [shape for shape in made if shape[1] == category]
        assert_holds(shapenet(str(tmp_path), category=category), wanted)


def test_what_is_left_out_is_listed(tmp_path):
    made = original(tmp_path)
    grids = tmp_path / "nrrd_256_filter_div_32_solid"
    broken, empty, cut, gone, unsaid = (model for model, *_ in made[:5])
    (grids / broken / f"{broken}.nrrd").write_bytes(b"NRRD0004\nsizes: 1\n\n")
    whole = (grids / cut / f"{cut}.nrrd").read_bytes()
    (grids / cut / f"{cut}.nrrd").write_bytes(whole[: len(whole) - 40])
    (grids / empty / f"{empty}.nrrd").write_bytes(b"")
    shutil.rmtree(grids / gone)
    rows = (tmp_path / "captions.tablechair.csv").read_text().splitlines()
    rows = [row for row in rows if unsaid not in row]
    rows += ["7,,a shape without an id,Chair,3001627,1", f"8,{made[9][0]},   ,Chair,3001627,1"]
    (tmp_path / "captions.tablechair.csv").write_text("\n".join(rows))
    splits = shapenet(str(tmp_path))
    assert_holds(splits, made[5:])
    counts = Counter(problem.kind for problem in splits.problems)
    assert counts == {
        "grid unreadable": 3,
        "captions without a shape": 1,
        "caption unreadable": 1,
        "caption empty": 1,
    }
    (lost,) = [p for p in splits.problems if p.kind == "captions without a shape"]
    assert (lost.where, lost.what) == (gone, "2 captions, but no grid")
    assert "1 voxel grids have no caption and are not used" in splits.notes
    with pytest.raises(DataError, match="on_error=skip"):
        shapenet(str(tmp_path), on_error="raise")


def test_images_without_a_grid_and_grids_without_images(tmp_path):
    made = original(tmp_path)
    write_images(tmp_path / "images", made[1:], 6)
    shutil.rmtree(tmp_path / "nrrd_256_filter_div_32_solid" / made[2][0])
    one = tmp_path / "images" / SYNSETS[made[3][1]] / made[3][0] / "4.png"
    one.write_bytes(one.read_bytes()[:50])
    splits = shapenet(str(tmp_path), views=6, view_size=16)
    assert Counter(problem.kind for problem in splits.problems) == {
        "images missing": 1,
        "image unreadable": 1,
        "grid missing": 1,
    }
    folds = {
        name: (int(voxel), int(views))
        for dataset in splits.values()
        for name, voxel, views in zip(dataset.names, dataset.folds("voxel"), dataset.folds("views"))
    }
    expected = [(1, 0), (1, 1), (0, 1), (1, 0)]
    assert [folds[model] for model, *_ in made[:4]] == expected
    assert set(folds.values()) == set(expected)


def test_official_splits_beside_the_csv(tmp_path):
    made = original(tmp_path)
    parts = split_up(made[:20])
    (tmp_path / "splits").mkdir()
    ids = {split: [model for model, *_ in part] for split, part in parts.items()}
    (tmp_path / "splits" / "train.txt").write_text("\n".join(ids["train"] + ids["test"][:1]))
    (tmp_path / "splits" / "val.json").write_text(json.dumps(ids["val"]))
    (tmp_path / "splits" / "test.csv").write_text("modelId\n" + "\n".join(ids["test"]))
    splits = shapenet(str(tmp_path))
    assert_holds(splits, made[:20])
    assert {split: set(splits[split].names) for split in splits} == {
        split: set(names) for split, names in ids.items()
    }
    assert splits.notes == ("4 shapes with captions are in no official split and are not used",)
    (twice,) = splits.problems
    assert (twice.kind, twice.where) == ("in two splits", ids["test"][0])
    (tmp_path / "splits" / "val.json").unlink()
    note = shapenet(str(tmp_path)).notes[0]
    assert note.startswith("only ")
    assert note.endswith("of the three split files is there: it is not used")


def test_entries_without_a_text_beside_the_csv(tmp_path):
    made = original(tmp_path)
    csv_only, nowhere, *_ = (model for model, *_ in made)
    for split, part in split_up(made).items():
        rows = [
            {"model": model}
            | (
                {}
                if model in (csv_only, nowhere)
                else {"captions": [f"{c} (map)" for c in captions]}
            )
            for model, _, captions, _ in part
        ]
        (tmp_path / f"{split}_map.json").write_text(json.dumps(rows))
    write_csv(
        tmp_path / "captions.tablechair.csv", [shape for shape in made if shape[0] != nowhere]
    )
    splits = shapenet(str(tmp_path))
    expected = [
        (m, c, texts if m == csv_only else [f"{text} (map)" for text in texts], grid)
        for m, c, texts, grid in made
        if m != nowhere
    ]
    assert_holds(splits, expected)
    assert splits.notes == ("1 shapes of the split files have no caption and are not used",)
    (tmp_path / "captions.tablechair.csv").unlink()
    splits = shapenet(str(tmp_path))
    assert_holds(splits, expected[1:])
    assert splits.notes == ("2 shapes of the split files have no caption and are not used",)


def test_pickles_are_not_opened(tmp_path):
    original(tmp_path)
    for split in ("train", "val", "test"):
        # Would write a file if it were loaded.
        (tmp_path / f"processed_captions_{split}.p").write_bytes(
            b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
        )
    splits = shapenet(str(tmp_path))
    assert any("pickles, which are never opened" in note for note in splits.notes)
    assert not (tmp_path / "ran").exists()


def test_ids_do_not_lead_out_of_the_folder(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    made = original(root)
    outside = shapes(1)[0]
    np.save(tmp_path / "secret.npy", outside[3])
    write_csv(
        root / "captions.tablechair.csv",
        [*made, ("../secret", "chair", ["a chair"], None), ("/etc/passwd", "chair", ["b"], None)],
    )
    splits = shapenet(str(root))
    assert_holds(splits, made)
    assert [p.where for p in splits.problems] == ["../secret", "/etc/passwd"]


def test_genuine_files(test_data):
    root = test_data / "text2shape"
    splits = shapenet(str(root), views=6, view_size=32)
    assert sum(len(dataset) for dataset in splits.values()) == 11
    assert Counter(p.kind for p in splits.problems) == {"captions without a shape": 5}
    captions = sum(int(dataset.folds("text").sum()) for dataset in splits.values())
    assert captions == 12
    for dataset in splits.values():
        assert dataset[0].observations["views"][0].shape == (6, 3, 32, 32)
    with pytest.raises(DataError, match="captions without a shape"):
        shapenet(str(root), on_error="raise")
    with pytest.raises(DataError, match="1 shapes are too few to hold out"):
        shapenet(str(root), captions="captions_test.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 48}, "32, 64 or 128"),
        ({"category": "sofa"}, "chair, table or both"),
        ({"views": 4}, "6, 12 or null"),
        ({"views": 6, "view_size": 0}, "view_size must be 8 or more"),
        ({"views_from": "mesh"}, "auto, images or grids"),
        ({"on_error": "ignore"}, "skip or raise"),
        ({"captions": "none.csv"}, "there is no .*none.csv"),
        ({"grids": "none"}, "data.grids: there is no"),
        ({"views": 6, "views_from": "images"}, "there are no images"),
        ({"views": 6, "images": "nrrd_256_filter_div_32_solid"}, "there are no images"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, message):
    original(tmp_path, 6)
    with pytest.raises(ValueError, match=message):
        shapenet(str(tmp_path), **options)


def test_roots_that_hold_nothing(tmp_path):
    with pytest.raises(DataError, match=r"data\.root is needed"):
        shapenet()
    with pytest.raises(DataError, match="there is no folder"):
        shapenet(str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"no captions\.tablechair\.csv"):
        shapenet(str(tmp_path))
    (tmp_path / "captions.tablechair.csv").write_text("id,text\n1,a chair\n")
    with pytest.raises(DataError, match="has the columns id, text"):
        shapenet(str(tmp_path))
    write_csv(tmp_path / "captions.tablechair.csv", shapes(6))
    with pytest.raises(DataError, match="there are no voxel grids"):
        shapenet(str(tmp_path))
