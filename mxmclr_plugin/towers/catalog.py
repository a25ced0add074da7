"""The towers that have a name."""

from __future__ import annotations

from mxmclr_plugin.towers.features import features
from mxmclr_plugin.towers.image import LightCNN2d, TorchvisionBackbone
from mxmclr_plugin.towers.points import point_net
from mxmclr_plugin.towers.registry import TOWERS, TowerInfo, tower_of
from mxmclr_plugin.towers.text import bag_of_words, sentence_transformer
from mxmclr_plugin.towers.views import multi_view
from mxmclr_plugin.towers.voxel import LightCNN3d, VideoBackbone

__all__: list[str] = []

for info in (
    TowerInfo(
        "bag_of_words",
        "text",
        tower_of(bag_of_words),
        "mean of word vectors, trained from scratch on the captions (no download)",
    ),
    TowerInfo(
        "sentence_transformer",
        "text",
        tower_of(sentence_transformer, frozen=True),
        "any SentenceTransformer: a hub name, a folder, or offline-minilm",
    ),
    TowerInfo("light_cnn3d", "voxel", tower_of(LightCNN3d), "light 3D CNN made for grids of 32^3"),
    TowerInfo(
        "video_model",
        "voxel",
        tower_of(VideoBackbone),
        "torchvision's video models: r3d_18, mc3_18, r2plus1d_18, s3d, swin3d_*",
    ),
    TowerInfo(
        "light_cnn2d", "image", tower_of(LightCNN2d), "light CNN for pictures of 32 to 128 pixels"
    ),
    TowerInfo(
        "torchvision_model",
        "image",
        tower_of(TorchvisionBackbone),
        "torchvision's classification models: resnet18, efficientnet_b0, vit_b_16, ...",
    ),
    TowerInfo(
        "multi_view",
        "views",
        tower_of(multi_view),
        "an image model over every view, pooled by mean, max or attention",
    ),
    TowerInfo(
        "point_net", "points", tower_of(point_net), "PointNet: a shared MLP and max and mean"
    ),
    TowerInfo(
        "features", "features", tower_of(features), "precomputed vectors, straight to the head"
    ),
):
    TOWERS.register(info)
