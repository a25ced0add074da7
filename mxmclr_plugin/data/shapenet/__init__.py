"""Text2Shape on ShapeNet: chairs and tables as coloured grids and pictures, and their captions."""
