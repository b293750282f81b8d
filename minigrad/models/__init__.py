"""Models of the Batch Normalization experiments."""

from minigrad.models.bn_inception import BNInception
from minigrad.models.inception import Inception
from minigrad.models.mlp import MLP

__all__ = ["MLP", "BNInception", "Inception"]
