"""Text2Shape on ShapeNet: chairs and tables as coloured grids and images, and their captions."""
