"""The tiles' work as Triton kernels."""
