"""The loss tile by tile: exact, in memory that grows with the rows."""
