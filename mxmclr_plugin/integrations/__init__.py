"""The losses as citizens of other libraries."""
