"""Configuration of a run: its keys, how it is composed, checked and described."""
