"""How rows of activations are brought into the form an engine reads."""
