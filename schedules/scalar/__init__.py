"""Kernels of scalars, which take every product on every machine."""
