"""Kernels: algorithms on plain arrays, one method a file."""
