"""The loss of the rows of all processes, each of which does its share."""
