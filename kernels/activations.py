"""Activations that other kernels apply on the way, by number."""

IDENTITY, RELU, SIGMOID = 0, 1, 2
NUMBERS = {None: IDENTITY, "relu": RELU, "sigmoid": SIGMOID}  # by the names that ops take
