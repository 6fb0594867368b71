"""Kernels on ARM cores without a board, ours and others': instructions counted, cycles modelled."""
