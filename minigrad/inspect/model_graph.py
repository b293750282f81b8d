"""A model as boxes: its layers as they were called in one forward, and what reads what."""

from collections import Counter
from dataclasses import dataclass, field

from minigrad.inspect.modules import Call, calls_of
from minigrad.nn import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sigmoid,
    Tanh,
)
from minigrad.results import op_of
from minigrad.tape import Op
from minigrad.tensor import Tensor

FOLLOWERS = BatchNorm, ReLU, Sigmoid, Tanh, Dropout  # layers that are told of in the box of what they follow
OPS = {  # that a module's own forward calls: (title, kind)
    "Concat": ("concatenate", "join"),
    "Add": ("add", "join"),
    "Conv2d": ("conv", "convolution"),
    "DepthwiseConv2d": ("depthwise conv", "convolution"),
    "GroupedConv2d": ("conv in groups", "convolution"),
    "Linear": ("linear", "dense"),
    "MatMul": ("product", "dense"),
    "MaxPool2d": ("max pool", "pooling"),
    "AvgPool2d": ("average pool", "pooling"),
}
ACTIVATIONS = "ReLU", "Sigmoid", "Tanh"


@dataclass
class Unit:
    """A box: a layer, and the normalization and activation right after it; or an op of a module's own."""

    title: str
    kind: str  # "input", "convolution", "pooling", "dense", "join" or "layer"
    shape: tuple[int, ...]  # of its result, without the batch
    parameters: int = 0
    modules: list[str] = field(default_factory=list)  # their dotted names
    path: tuple[str, ...] = ()  # the names of the containers it is in, the outermost first, without the model itself
    sources: list[int] = field(default_factory=list)  # the numbers of the units it reads
    follows: bool = False  # may be told of in the box of its source


def units_of(model: Module, x: Tensor) -> list[Unit]:
    """The units of a model's forward, in evaluation mode, in the order of their calls; the first is the input."""
    calls = calls_of(model, x)
    names = {id(module): name for name, module in reversed(list(model.modules()))}
    units = [Unit("input", "input", x.shape[1:])]
    of_op: dict[Op, int] = {}
    of_call: dict[int, int] = {}
    ops = [(op, call) for call in calls for op, _ in call.ops]
    for op, call in sorted(ops, key=lambda pair: pair[0].order):
        is_layer = not any(call.module.children())
        number = of_call.get(id(call)) if is_layer else None
        if number is None:
            number = len(units)
            units.append(layer_unit(call, names) if is_layer else op_unit(op, call, names))
            if id(call) not in of_call:
                units[number].parameters = call.parameters
                of_call[id(call)] = number
        unit = units[number]
        unit.shape = op._results()[0].shape[1:]
        for source in op.sources or ():
            maker = op_of(source)
            read = of_op.get(maker) if maker is not None else 0 if source is x else None
            if read is not None and read != number:
                unit.sources.append(read)
        of_op[op] = number
    for unit in units[1:]:
        unit.sources = unit.sources or [0]  # what reads integers, of which the tape keeps nothing
    for call in calls:  # what does nothing in evaluation mode, as dropout
        if not call.ops and not any(call.module.children()) and isinstance(call.result, Tensor):
            maker = op_of(call.result._op)
            made_by = of_op.get(maker) if maker is not None else None
            if made_by is not None:
                units[made_by].title += f", {title_of(call.module)}"
                units[made_by].modules.append(names[id(call.module)])
    return merged(units)


def layer_unit(call: Call, names: dict[int, str]) -> Unit:
    """The unit of a layer."""
    module = call.module
    kinds = {
        Conv2d: "convolution",
        MaxPool2d: "pooling",
        AvgPool2d: "pooling",
        GlobalAvgPool: "pooling",
        Linear: "dense",
    }
    kind = next((kind for layer, kind in kinds.items() if isinstance(module, layer)), "layer")
    unit = Unit(title_of(module), kind, (), modules=[names[id(module)]], path=path_of(call.within, names))
    unit.follows = isinstance(module, FOLLOWERS)
    return unit


def op_unit(op: Op, call: Call, names: dict[int, str]) -> Unit:
    """The unit of an op that a container's forward calls itself."""
    name = type(op).__name__
    title, kind = OPS.get(name, (op._title(), "layer"))
    unit = Unit(title, kind, (), modules=[names[id(call.module)]], path=path_of(call, names))
    unit.follows = name in ACTIVATIONS
    return unit


def path_of(call: Call | None, names: dict[int, str]) -> tuple[str, ...]:
    """The names of the modules that a call is in, itself counted, without the model."""
    path: list[str] = []
    while call is not None and call.within is not None:
        path.append(names[id(call.module)])
        call = call.within
    return tuple(reversed(path))


def title_of(module: Module) -> str:
    """What a layer is called in few words."""
    if isinstance(module, Conv2d):
        depthwise = "depthwise " if 1 < module.groups == module.weight.shape[2] * module.groups else ""
        groups = f", {module.groups} groups" if module.groups > 1 and not depthwise else ""
        return f"{by(module.size)} {depthwise}conv{strided(module.stride)}{groups}"
    if isinstance(module, MaxPool2d | AvgPool2d):
        kind = "max" if isinstance(module, MaxPool2d) else "average"
        return f"{by(module.size)} {kind} pool{strided(module.stride)}"
    short = {GlobalAvgPool: "global average", BatchNorm: "BN", Flatten: "flatten", Dropout: "dropout", Linear: "linear"}
    return next((name for kind, name in short.items() if isinstance(module, kind)), type(module).__name__)


def by(size: object) -> str:
    """A window's size, 3 × 3."""
    return "×".join(map(str, size)) if isinstance(size, tuple | list) else f"{size}×{size}"


def strided(stride: object) -> str:
    """A stride, if it is not 1: " /2"."""
    steps = tuple(stride) if isinstance(stride, tuple | list) else (stride, stride)
    if steps == (1, 1):
        return ""
    return f" /{steps[0]}" if steps[0] == steps[1] else f" /{by(steps)}"


def merged(units: list[Unit]) -> list[Unit]:
    """The same with normalization and activation told of in the box of what they follow, where nothing else reads that."""
    readers = Counter(source for unit in units for source in set(unit.sources))
    kept: list[Unit] = []
    where: list[int] = []  # for each of the units, its number among those kept
    for unit in units:
        sources = list(dict.fromkeys(where[source] for source in unit.sources))
        if unit.follows and len(sources) == 1 and sources[0] and readers[unit.sources[0]] == 1:
            into = kept[sources[0]]
            into.title += f", {unit.title}"
            into.shape, into.parameters = unit.shape, into.parameters + unit.parameters
            into.modules += unit.modules
            where.append(sources[0])
        else:
            unit.sources = sources
            where.append(len(kept))
            kept.append(unit)
    return kept


@dataclass
class ModelBlock:
    """A part of a model that follows another: the units of a module, or a single one without a name."""

    name: str
    units: list[int]


def blocks_of(units: list[Unit]) -> list[ModelBlock]:
    """The units in blocks that follow one another, each read by the next through one arrow; one block if they do not."""
    depth = 0
    while len({unit.path[: depth + 1] for unit in units[1:]}) == 1 and all(len(u.path) > depth for u in units[1:]):
        depth += 1
    blocks: list[ModelBlock] = []
    for number, unit in enumerate(units):
        name = unit.path[depth] if len(unit.path) > depth else ""
        if name and blocks and blocks[-1].name == name:
            blocks[-1].units.append(number)
        else:
            blocks.append(ModelBlock(name, [number]))
    block_of = {number: i for i, block in enumerate(blocks) for number in block.units}
    for i, block in enumerate(blocks):
        for number in block.units:
            for source in units[number].sources:
                outside = block_of[source] != i
                if outside and (block_of[source] != i - 1 or source != blocks[i - 1].units[-1]):
                    return [ModelBlock("", list(range(len(units))))]
    return blocks
