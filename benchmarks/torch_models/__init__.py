"""PyTorch models of other packages: which are compressed, exported, compiled and agree."""
