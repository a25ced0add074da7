"""Text2Shape Primitives, regenerated: coloured grids of simple shapes, and sentences about them."""
