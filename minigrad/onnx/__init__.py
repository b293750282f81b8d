"""Models to and from files of ONNX.

mg.onnx.export(model, example, "model.onnx")
model = mg.onnx.import_model("model.onnx")
"""

from minigrad.onnx.exporting import export
from minigrad.onnx.importing import import_model

__all__ = ["export", "import_model"]
