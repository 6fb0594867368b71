"""Layers that hold indices and codebooks, as they are exported."""
