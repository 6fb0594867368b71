"""How much accuracy quantised recognisers keep: every method at every bit-width, side by side."""
