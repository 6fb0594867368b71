"""From PyTorch's operators to Relax, a kind of operator a file."""
