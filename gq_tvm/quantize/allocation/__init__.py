"""What each weight of a model loses at few bits, and bits for each within a budget."""
