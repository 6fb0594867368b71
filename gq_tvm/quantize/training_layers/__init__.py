"""Layers whose weights pass a quantiser while they are trained."""
