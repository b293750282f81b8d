"""How CPU kernels are compiled, launched, recorded and shared out among threads."""
