"""How our layers stand in for PyTorch's: what theirs do, which can be replaced, and copies."""
