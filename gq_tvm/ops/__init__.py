"""The codebook operators: what they mean, in NumPy and in PyTorch.

``reference`` needs NumPy alone; ``torch_ops`` registers the operators with PyTorch and is
imported only where there is a PyTorch (a device that runs artefacts has none).
"""
