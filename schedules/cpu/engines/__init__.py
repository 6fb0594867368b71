"""The arithmetic of kernels: how a tile of a packed weight is multiplied."""
