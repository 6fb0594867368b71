"""The codebook operators: what they mean, in NumPy and in PyTorch.

``reference`` needs NumPy alone; ``torch_ops`` registers the operators with PyTorch and is
imported only where there is a PyTorch (a device that runs artefacts has none).
"""

METADATA = "gq_metadata.json"  # the file of a .pt2 that says what else there is to know of a model
