"""Data-aware compression: what reaches each weight, and the layers compressed one by one [C]."""
