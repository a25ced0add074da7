"""The parts of a page, from what a folder holds."""
