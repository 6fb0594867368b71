"""docs/compression.md: networks that others trained, compressed, beside rivals at equal bytes."""
