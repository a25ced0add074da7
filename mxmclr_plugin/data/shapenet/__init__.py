"""Text2Shape on ShapeNet: chairs and tables as coloured grids and images, and their captions."""

from mxmclr_plugin.data.shapenet.build import shapenet

__all__ = ["shapenet"]
