"""Quantisers: from weights to centroids and indices."""
