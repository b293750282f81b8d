"""Models of the Batch Normalization experiments."""

from minigrad.models.mlp import MLP

__all__ = ["MLP"]
