"""A model as a file of ONNX."""

import os
from pathlib import Path
from typing import Any

from minigrad.checkpoint import write_atomically
from minigrad.interop.tracing import as_examples
from minigrad.nn import BatchNorm, Module
from minigrad.onnx.folding import folded
from minigrad.onnx.layout import IMAGES, plain
from minigrad.onnx.library import IR, LARGEST, OPSET, library
from minigrad.onnx.nodes import write
from minigrad.onnx.plan import Array, ModelPlan, planned, same
from minigrad.onnx.writer import Writer
from minigrad.version import __version__

LAYOUTS = {"channels_last": "N, H, W, C", "channels_first": "N, C, H, W"}


def export(
    model: Module,
    example: Any,
    path: str | os.PathLike[str],
    *,
    batch: str | None = "batch",
    layout: str = "channels_last",
    fold: bool = False,
) -> None:
    """Write what a model computes in evaluation mode to a file of ONNX (opset 18), which is replaced in one go.

    The model is traced on the example, and on other values in batches of other lengths, so that what depends on these is known.
    Parameters and buffers keep their names of `state_dict`; a convolution's weight becomes (out, in, kh, kw), and a Linear
    that reads flattened images has its rows in the order (C, H, W). onnx.checker has passed the graph before it is written.
    Needs the extra `onnx`. Flags of training and statistics are left as they are.

    Args:
        model: its forward takes tensors and returns a tensor, or a tuple, list or dict of tensors.
        example: an input, an array or a tensor, or a tuple of several, with at least one row.
        batch: the name of axis 0 of every input, which may have any length; None for the example's shapes alone.
        layout: how inputs and outputs of four axes lie, "channels_last" (N, H, W, C) as here, which costs a transpose before
            the first convolution, or "channels_first" (N, C, H, W).
        fold: put each BatchNorm that alone reads a Linear or convolution into its weight and bias, as
            `mg.nn.fold_batch_norm` does.

    Raises ValueError that names the op and its place for one that ONNX has not, and for a model that computes something else
    for other values or cannot run on another batch; TypeError for an example that is none.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be 'channels_last' or 'channels_first', not {layout!r}")
    if batch is not None and not (isinstance(batch, str) and batch):
        raise ValueError(f"batch must be a name for the axis, or None for fixed shapes, not {batch!r}")
    onnx = library()
    plan = planned(model, as_examples(example), batch is not None)
    if fold:
        plan = folded(plan)
    decays = {
        f"{name}.running_mean" if name else "running_mean": module.decay
        for name, module in model.modules()
        if isinstance(module, BatchNorm)
    }
    proto = as_proto(plan, decays, type(model).__name__, batch, layout)
    size = proto.ByteSize()
    if size > LARGEST:
        raise ValueError(f"the model takes {size:,} bytes, and a file of ONNX can have {LARGEST:,}")
    onnx.checker.check_model(proto, full_check=True)
    write_atomically(Path(path), proto.SerializeToString())


def as_proto(plan: ModelPlan, decays: dict[str, float], title: str, batch: str | None, layout: str) -> Any:
    """The plan as a ModelProto."""
    onnx = library()
    writer = Writer(plan.inputs, decays)
    graph = writer.graph
    first = layout == "channels_first"

    def described(name: str, array: Array) -> Any:
        """An input or output: its type, and its axes by number or by the batch's name."""
        axes = IMAGES if first and array.ndim == 4 else plain(array.ndim)
        lengths: list[int | str | None] = [same(array.shape[a]) for a in axes]
        rows = plan.inputs[0].shape[0] if batch else None
        lengths = [batch if n is None and array.shape[a] == rows else n for n, a in zip(lengths, axes, strict=True)]
        text = LAYOUTS[layout] if array.ndim == 4 else ""
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        return onnx.helper.make_tensor_value_info(name, kind, lengths, text)

    inputs = []
    for i, array in enumerate(plan.inputs):
        name = graph.new_name("input" if len(plan.inputs) == 1 else f"input_{i}")
        writer.put(array, name, IMAGES if first and array.ndim == 4 else None)
        inputs.append(described(name, array))
    for name in plan.outputs:
        graph.taken.add(name)
    for node in plan.nodes:
        write(writer, node)
    outputs, given = [], set()
    made = {name for node in graph.nodes for name in node.output}
    writer.node = None
    for wish, array in plan.outputs.items():
        name = writer.laid(array, IMAGES) if first and array.ndim == 4 else writer.plain(array)
        made = {n for node in graph.nodes if node.op_type != "Constant" for n in node.output}
        if name not in made or name in given:
            name = writer.add("Identity", name)
        graph.rename(name, wish)
        given.add(wish)
        outputs.append(described(wish, array))
    nodes = needed(graph.nodes, set(plan.outputs))
    used = {name for node in nodes for name in node.input}
    tensors = [onnx.numpy_helper.from_array(a, name) for name, a in graph.initializers.items() if name in used]
    body = onnx.helper.make_graph(nodes, title, inputs, outputs, tensors)
    return onnx.helper.make_model(
        body,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="minigrad",
        producer_version=__version__,
    )


def needed(nodes: list[Any], wanted: set[str]) -> list[Any]:
    """The nodes that the wanted results are computed by, in their order."""
    kept = []
    wanted = set(wanted)
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
