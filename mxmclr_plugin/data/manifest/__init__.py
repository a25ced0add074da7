"""Anybody's own data: a file that lists instances with their texts and files."""
