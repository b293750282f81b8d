"""Models as files of ONNX: mg.onnx.export(model, example, path)."""

from minigrad.onnx.exporting import export

__all__ = ["export"]
