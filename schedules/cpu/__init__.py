"""Kernels on vector instruction sets of CPUs."""
