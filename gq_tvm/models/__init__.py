"""Speech recognisers in PyTorch: the networks, their loss, training, export."""

from __future__ import annotations
