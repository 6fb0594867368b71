"""What a compiled model is on disk."""
