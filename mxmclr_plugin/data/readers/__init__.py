"""Readers of files: one kind of record each, from a path to a tensor.

A reader raises :class:`~mxmclr_plugin.data.file_store.UnreadableFile` for whatever a file may hold,
runs nothing that it holds, and looks at the size that a header claims before it makes room for it.
"""
