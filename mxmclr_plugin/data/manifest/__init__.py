"""Anybody's own data: a file that lists instances with their texts and files."""

from mxmclr_plugin.data.manifest.build import manifest

__all__ = ["manifest"]
