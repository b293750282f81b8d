"""The tape as a page for a browser: one file, which needs no network."""

import html
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minigrad.inspect.graph import TapeGraph, ops_behind
from minigrad.inspect.limits import Limits
from minigrad.inspect.limits import limits as measured
from minigrad.inspect.page_data import Json, model_of, page_data
from minigrad.inspect.stepping import Steps
from minigrad.nn import Module
from minigrad.tape import first_gradient
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from minigrad.capture.plan import Plan

HERE = Path(__file__).parent


def page(
    loss: Tensor,
    path: str | os.PathLike[str],
    *,
    names: Mapping[str, Tensor] | None = None,
    model: Module | None = None,
    plan: "Plan | None" = None,
    limits: Limits | None = None,
    grad: Tensor | np.ndarray | None = None,
    seed: int = 0,
) -> Path:
    """Write the tape of a tensor as a page of HTML to the file `path`, which any browser opens, also without a network.

    The page draws the graph, modules closed where it is large, and goes backward through it step by step, by the arrow keys.
    A click on a node shows its formula, line of code, shapes, values and gradients as heat maps, the check by finite
    differences, the code of the op and of its kernels on the reference, the CPU and CUDA. Values, checks, modules and
    kernels of forward are known of what was computed inside `record()`; take a small batch, since every op is run again
    a few times in float64, by NumPy.

    Args:
        loss: what backward begins at; the tape stays, and no `.grad` is touched.
        path: the file, which is replaced.
        names: of leaves and recorded constants, as in `table`.
        model: whose modules the graph is folded by, and whose parameters name leaves; by default the outermost module that
            was at work.
        plan: `step.plan` of the same computation, captured on a batch of the same shape: each kernel gets its time there,
            and the share of the limit that it reaches, see `limits`.
        limits: those of the machine; by default they are measured where there is a plan.
        grad: the gradient to begin with, as in `backward`.
        seed: of the random directions of the checks.

    Returns:
        The path of the file: less than 200 kB for a small net, 1 to 4 MB for an Inception.

    Raises:
        RuntimeError: there is no tape, or no gradient to start from.
    """
    model = model or model_of(ops_behind(loss))
    graph = TapeGraph(loss, names, model)
    steps = Steps(graph, first_gradient(loss, grad), loss._device, seed)
    if plan is not None and limits is None:
        limits = measured(loss._device)
    data = page_data(graph, steps, model, plan, limits)
    ops = f"{len(graph.ops)} op" + "s" * (len(graph.ops) != 1)
    data["title"] = f"The tape of {type(model).__name__}" if model else f"The tape of {graph.ops[-1]._title()}"
    data["about"] = f"{ops} on {loss.device!r}"
    data["result"] = f"{loss.item():.6g}" if loss.size == 1 else ""
    target = Path(path)
    target.write_text(html_of(data), encoding="utf-8")
    return target


def html_of(data: Json) -> str:
    """The page: the template with its style, its script and the data."""
    title = html.escape(str(data["title"]))
    script = "\n".join(["{", text_of("page_layout.js"), text_of("page_graph.js"), text_of("page.js"), "}"])
    parts = {"title": title, "style": text_of("page.css"), "script": script, "data": for_script(data)}
    before, *pieces = text_of("page.html").split("\n@")  # each part stands on a line of its own
    for piece in pieces:
        name, _, after = piece.partition("@")
        before += "\n" + parts[name] + after
    return before


def text_of(file: str) -> str:
    """A file that stands beside this one."""
    return (HERE / file).read_text(encoding="utf-8")


def for_script(data: Json) -> str:
    """Data as JSON that can stand in a script element, whatever is in its strings."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
