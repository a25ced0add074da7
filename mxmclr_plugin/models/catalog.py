"""The towers that have a name."""

from __future__ import annotations

from mxmclr_plugin.models.features import features
from mxmclr_plugin.models.image import LightCNN2d, TorchvisionBackbone
from mxmclr_plugin.models.multimodal import multimodal
from mxmclr_plugin.models.points import point_net
from mxmclr_plugin.models.registry import TOWERS, TowerInfo, tower_of
from mxmclr_plugin.models.strokes import StrokeCNN
from mxmclr_plugin.models.text import bag_of_words, sentence_transformer
from mxmclr_plugin.models.timm_image import TimmBackbone
from mxmclr_plugin.models.views import multi_view
from mxmclr_plugin.models.voxel import LightCNN3d, VideoBackbone

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
        "timm_model", "image", tower_of(TimmBackbone), "any model of the package timm (extra: timm)"
    ),
    TowerInfo(
        "sentence_transformer_image",
        "image",
        tower_of(multimodal, frozen=True),
        "CLIP and its like as a SentenceTransformer; same_as makes it the tower of the texts too",
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
    TowerInfo(
        "stroke_cnn",
        "strokes",
        tower_of(StrokeCNN),
        "light 1D CNN along pen strokes of a fixed number of points",
    ),
):
    TOWERS.register(info)
