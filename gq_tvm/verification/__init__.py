"""Whether an artefact computes what PyTorch does, and how far it may be off."""
