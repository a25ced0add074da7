"""Text2Shape Primitives, regenerated: coloured grids of simple shapes, and sentences about them."""

from mxmclr_plugin.data.primitives.build import primitives

__all__ = ["primitives"]
