"""Figures of what is inside a network: its stages, its kernels, and what its scores depend on."""
