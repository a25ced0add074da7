import torch

from mxmclr_plugin.data.primitives.build import primitives
from mxmclr_plugin.data.rendering import render_views

SMALL = {"seed": 2, "samples": 2, "captions": 2, "classes": 12, "view_size": 24}


def test_a_sample_has_its_images(tmp_path):
    splits = primitives(tmp_path, views=6, **SMALL)
    assert splits.kinds == {"text": "text", "voxel": "voxel", "views": "views"}
    for dataset in splits.values():
        for k in range(len(dataset)):
            seen = dataset[k].observations
            assert len(seen["views"]) == len(seen["voxel"]) == 2
            expected = render_views(torch.stack(list(seen["voxel"])), 6, 24)
            assert torch.equal(torch.stack(list(seen["views"])), expected)


def test_images_as_observations_of_their_own(tmp_path):
    stacked = primitives(tmp_path, views=12, **SMALL)["test"]
    splits = primitives(tmp_path, views=12, separate_views=True, **SMALL)
    assert splits.kinds == {"text": "text", "voxel": "voxel", "image": "image"}
    single = splits["test"]
    assert single.folds("image").tolist() == [24] * len(single)
    for k in range(len(single)):
        stacks = torch.cat(list(stacked[k].observations["views"]))
        assert torch.equal(torch.stack(list(single[k].observations["image"])), stacks)


def test_none_unless_asked_for(tmp_path):
    assert primitives(tmp_path, **SMALL).kinds == {"text": "text", "voxel": "voxel"}
    assert not list(tmp_path.rglob("views-*"))
