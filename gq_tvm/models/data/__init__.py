"""From corpora to training batches and evaluation sets."""
