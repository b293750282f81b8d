"""Weights and models in and out: PyTorch's state dicts, safetensors files of plain weights.

model = mg.interop.from_torch(model, state_dict, example=images)
state_dict = mg.interop.to_torch(model, example=images)
mg.interop.save_safetensors(model, "weights.safetensors", layout="torch", example=images)
mg.interop.load_safetensors(model, "weights.safetensors", example=images)
"""

from minigrad.interop.pytorch import from_torch, to_torch
from minigrad.interop.weights import load_safetensors, save_safetensors

__all__ = ["from_torch", "load_safetensors", "save_safetensors", "to_torch"]
