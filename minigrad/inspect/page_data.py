"""What the page of a tape shows, as JSON has it."""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad.inspect.drawing import Box, boxes_of
from minigrad.inspect.graph import Recorded, TapeGraph, dtype_of, kept_arrays, short_line, source_line
from minigrad.inspect.heatmap import SIDE, heat_map
from minigrad.inspect.kernel_calls import KernelCall, Shapes, shapes_in_words, shapes_of
from minigrad.inspect.limits import Limits
from minigrad.inspect.sources import kernel_sources, op_source
from minigrad.inspect.stepping import Check, Step, Steps
from minigrad.kernels.work import Work
from minigrad.nn import Module
from minigrad.results import Result, op_of
from minigrad.tape import Op
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from minigrad.capture.plan import Plan

Json = dict[str, object]
PICTURES = 2_500_000  # bytes of base64 that all pictures together may take; where there are many, each gets fewer cells
LEAST_SIDE = 8


class PlanTimes:
    """The launches of a captured plan, each taken once by the op of the tape that it belongs to.

    A tape and a plan of the same step call the same kernels in the same order, so the first launch that is left of an op of
    this name, with this kernel and these shapes, is the one. A gradient that the plan adds to one that has come before is
    found under the name of the kernel that adds.
    """

    def __init__(self, plan: "Plan | None", limits: Limits | None) -> None:
        self.limits = limits
        self.left: dict[tuple[str, str, Shapes], deque[float | None]] = defaultdict(deque)
        for launch in plan.launches if plan else ():
            self.left[launch.op, launch.kernel, shapes_of(launch.given)].append(launch.seconds)

    def described(self, op: str, call: KernelCall) -> Json:
        """A call with its time in the plan, if it is there, and its share of the limit."""
        work = Work(call.operations, call.nbytes)
        about: Json = {"kernel": call.kernel, "shapes": shapes_in_words(call.shapes), "bytes": work.bytes}
        about |= {"operations": work.operations, "microseconds": None, "share": None}
        for kernel in (call.kernel, call.kernel + "_add"):
            if left := self.left.get((op, kernel, call.shapes)):
                seconds = left.popleft()
                about["kernel"] = kernel
                if seconds:
                    about["microseconds"] = round(seconds * 1e6, 2)
                    if self.limits is not None:
                        about["share"] = round(self.limits.least(work) / seconds, 4)
                break
        return about


class HeatMaps:
    """The heat maps of a page, each kept once."""

    def __init__(self, count: int) -> None:
        cells = PICTURES * 3 / 4 / max(count, 1)
        self.side = max(LEAST_SIDE, min(SIDE, int(math.sqrt(cells))))
        self.maps: list[Json] = []
        self.where: dict[str, int] = {}

    def add(self, array: np.ndarray | None, *, image: bool = False) -> int | None:
        """The number of an array's picture; None for no array."""
        if array is None:
            return None
        drawn = heat_map(array, image=image, side=self.side)
        key = repr(drawn)
        if key not in self.where:
            self.where[key] = len(self.maps)
            self.maps.append(drawn)
        return self.where[key]


def page_data(graph: TapeGraph, steps: Steps, model: Module | None, plan: "Plan | None", limits: Limits | None) -> Json:
    """All that the page shows: nodes, modules, steps, pictures, kernels and their sources."""
    boxes = boxes_of(graph)
    pictures = HeatMaps(len(boxes) + sum(len(op.sources or ()) for op in graph.ops))
    times = PlanTimes(plan, limits)
    names = {module: name for name, module in reversed(list(model.modules()))} if model else {}
    number = {id(box.of): i for i, box in enumerate(boxes) if not isinstance(box.of, tuple)}
    values = values_of(graph, boxes, number)
    paths = paths_of(boxes, names)
    nodes = [node(box, graph, path) for box, path in zip(boxes, paths, strict=True)]
    for i, box in enumerate(boxes):
        nodes[i]["value"] = [pictures.add(value, image=is_image(box)) for value in values.get(i, {}).values()]
        if isinstance(box.of, Op) and box.of.recorded is not None:
            nodes[i]["forward"] = [times.described(type(box.of).__name__, call) for call in box.of.recorded.calls]
    by_number = {graph.numbers[op]: op for op in graph.ops}
    walked: list[Json] = []
    for step in steps:
        op = by_number[step.number]
        at = number[id(op)]
        nodes[at]["step"] = step.index
        arrived = [pictures.add(dy, image=True) for dy in (step.dy if op._several else (step.dy,))]
        nodes[at]["gradient"] = [n for n in arrived if n is not None]
        nodes[at]["backward"] = [times.described(f"{type(op).__name__} backward", call) for call in step.calls]
        walked.append({"node": at, "passed": passed(step, graph, number, pictures)})
    for leaf, gradient in steps.gradients.items():
        nodes[number[id(leaf)]]["gradient"] = [pictures.add(gradient.numpy())]
    lists: list[Any] = [n[part] for n in nodes for part in ("forward", "backward") if part in n]
    kernels = dict.fromkeys(call["kernel"] for calls in lists for call in calls)
    return {
        "nodes": nodes,
        "steps": walked,
        "maps": pictures.maps,
        "modules": {name: about_module(module) for module, name in names.items() if name},
        "kernels": {k: {d: asdict(source) for d, source in kernel_sources(k).items()} for k in kernels},
        "ops": {kind.__name__: asdict(s) for kind in {type(op) for op in graph.ops} if (s := op_source(kind))},
        "limits": None if limits is None or plan is None else asdict(limits),
        "planned": plan is not None,
        "recorded": all(op.recorded is not None for op in graph.ops),
    }


def node(box: Box, graph: TapeGraph, path: Sequence[str]) -> Json:
    """What there is to say of a box."""
    about: Json = {"kind": box.kind, "title": box.title, "below": box.below, "path": list(path), "sources": box.sources}
    if isinstance(box.of, Op):
        op = box.of
        about |= {"number": graph.numbers[op], "class": type(op).__name__, "formula": op.formula}
        about |= {"shapes": [list(result.shape) for result in op._results()], "dtype": dtype_of(op)}
        about["kept"] = sum(a.nbytes for a in kept_arrays(op))
        about |= {"line": short_line(op.line), "code": source_line(op.line) if op.line else ""}
        about["inputs"] = graph.inputs(op)
    elif isinstance(box.of, Tensor):
        about |= {"shapes": [list(box.of.shape)], "dtype": str(box.of.dtype)}
    elif box.of is not None:
        array = box.of[0].recorded.arrays[box.of[1]]
        about |= {"shapes": [list(array.shape)], "dtype": str(array.dtype)}
    return about


def passed(step: Step, graph: TapeGraph, number: dict[int, int], pictures: HeatMaps) -> list[Json]:
    """The gradients that a step passes on, and what finite differences say of them."""
    leaves = {name: leaf for leaf, name in graph.leaves.items()}
    found = []
    for part in step.passed:
        leaf = leaves.get(part.to)
        source: Op | Tensor = leaf if leaf is not None else graph.ops[int(part.to[1:].split()[0].split("[")[0]) - 1]
        about: Json = {"to": number[id(source)], "part": part.part}
        about["map"] = pictures.add(part.gradient, image=leaf is None)
        about["check"] = None if part.check is None else checked(part.check)
        found.append(about)
    return found


def checked(check: Check) -> Json:
    """A check in words."""
    return {
        "ok": check.ok,
        "analytic": f"{check.analytic:.6g}",
        "numeric": f"{check.numeric:.6g}",
        "error": f"{check.error:.0e}",
        "tolerance": f"{check.tolerance:.0e}",
    }


def values_of(graph: TapeGraph, boxes: list[Box], number: dict[int, int]) -> dict[int, dict[int, np.ndarray]]:
    """By box, and by the number of a result, the values that are known: of leaves, and of all that was recorded as an input."""
    known: dict[int, dict[int, np.ndarray]] = defaultdict(dict)
    for op in graph.ops:
        recorded: Recorded | None = op.recorded
        for source, array in zip(op.sources or (), recorded.arrays if recorded else (), strict=bool(recorded)):
            if source is not None and array is not None:
                which = source.number if isinstance(source, Result) else 0
                known[number[id(source if isinstance(source, Tensor) else op_of(source))]][which] = array
    for i, box in enumerate(boxes):
        if isinstance(box.of, Tensor):
            known[i] = {0: box.of._device.to_host(box.of._data)}
        elif isinstance(box.of, tuple):
            known[i] = {0: box.of[0].recorded.arrays[box.of[1]]}
    return {i: dict(sorted(of_box.items())) for i, of_box in known.items()}


def is_image(box: Box) -> bool:
    """Whether four axes are images' (n, h, w, c), and not those of a convolution's weights."""
    return not isinstance(box.of, Tensor)


def model_of(ops: Iterable[Op]) -> Module | None:
    """The module that most of the recorded ops were called in, the outermost; None if there is none."""
    outermost = Counter(op.recorded.modules[0] for op in ops if op.recorded is not None and op.recorded.modules)
    found = [module for ref, _ in outermost.most_common() if (module := ref()) is not None]
    return found[0] if found else None


def paths_of(boxes: list[Box], names: dict[Module, str]) -> list[tuple[str, ...]]:
    """For each box the names of the modules it is in, the outermost first. A leaf is where those are that read it."""
    paths: list[tuple[str, ...]] = [()] * len(boxes)
    readers: dict[int, list[int]] = defaultdict(list)
    for i, box in enumerate(boxes):
        for source in box.sources:
            readers[source].append(i)
        if isinstance(box.of, Op) and box.of.recorded is not None:
            modules = [module for ref in box.of.recorded.modules if (module := ref()) is not None]
            paths[i] = tuple([name for module in modules if (name := names.get(module))])
    for i, box in enumerate(boxes):
        number = isinstance(box.of, tuple) and not box.of[0].recorded.arrays[box.of[1]].ndim
        if number or isinstance(box.of, Tensor):
            paths[i] = shared([paths[reader] for reader in readers[i]])
    return paths


def shared(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The beginning that all have."""
    first = min(paths, key=len, default=())
    while any(path[: len(first)] != first for path in paths):
        first = first[:-1]
    return first


def about_module(module: Module) -> Json:
    """What a module is."""
    parameters = {id(p): p.size for p in module.parameters()}
    settings = "" if list(module.children()) else module.settings()
    return {"class": type(module).__name__, "settings": settings, "parameters": sum(parameters.values())}
