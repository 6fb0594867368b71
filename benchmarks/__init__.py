"""Performance of gq-tvm and of what one would use instead, in one process: ``make benchmark``."""
