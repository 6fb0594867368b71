"""What other packages make of the same weights."""
