"""Times of kernels on cores that are not at hand: counted by an emulator, modelled by tables."""
