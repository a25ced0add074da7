import pytest
import torch
from data.captioned_images.sets import karpathy, shade

from mxmclr_plugin.data.captioned_images.augmentations import AUGMENTATIONS, build_augmentation
from mxmclr_plugin.data.captioned_images.build import captioned_images
from mxmclr_plugin.data.sampler import MultifoldSampler


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_turns_bytes_to_bytes_of_the_size_asked_for(name):
    generator = torch.Generator().manual_seed(0)
    photo = torch.randint(0, 256, (3, 37, 37), generator=generator, dtype=torch.uint8)
    transform = build_augmentation(name, 32)
    torch.manual_seed(0)
    views = [transform(photo) for _ in range(4)]
    for view in views:
        assert view.dtype == torch.uint8
        assert view.shape == (3, 32, 32)
        assert view.max() > 1  # not 0..1 taken as bytes
    assert not all(torch.equal(view, views[0]) for view in views)


def test_a_fold_of_images_by_transformation(tmp_path):
    karpathy(tmp_path, ["train", "train", "train", "val", "test"])
    data = captioned_images(str(tmp_path), size=16, augment="crop", copies=7)
    assert data["train"].folds("image").tolist() == [7, 7, 7]
    assert data["train"].folds("text").tolist() == [5, 5, 5]
    assert data["val"].folds("image").tolist() == data["test"].folds("image").tolist() == [1]
    # An image of one shade stays that under crops: copies are of the right photo.
    for k in range(3):
        assert {shade(record) for record in data["train"][k].observations["image"]} == {k}
        assert data["train"][k].observations["image"][0].shape == (3, 16, 16)
    # What is measured of the training photos are these as they are.
    assert data.plain["train"].folds("image").tolist() == [1, 1, 1]
    assert data.plain["train"].names == data["train"].names
    # A batch of P x 5, each image another copy.
    sampler = MultifoldSampler(data["train"], instances=3, folds={"image": 5, "text": 5})
    for draw in sampler:
        assert len(set(draw.rows["image"])) == 5
        assert len(draw.rows["text"]) == 5


def test_copies_follow_from_the_seed(test_data):
    def first(seed):
        data = captioned_images(
            str(test_data / "coco_mini"), size=32, augment="crop", copies=2, augment_seed=seed
        )
        return torch.stack(list(data["train"][0].observations["image"]))

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
