"""How CUDA kernels are written, compiled, launched and simulated, and the driver below them."""
