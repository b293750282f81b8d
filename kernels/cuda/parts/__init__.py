"""Device functions and plans that several CUDA families are composed of."""
