"""Compiled code on disk, and what is said while it is compiled: the same for every target."""
