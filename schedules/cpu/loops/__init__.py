"""The loops of kernels: blocks of rows, tiles of outputs, steps of a recurrent layer."""
