"""A step as a trace that chrome://tracing and ui.perfetto.dev show: ops above, their kernels below."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigrad.devices import Device, get_device
from minigrad.inspect.kernel_calls import KernelCall, NotedKernels, shapes_in_words, shapes_of
from minigrad.inspect.limits import Limits
from minigrad.kernels.work import Work, work_of
from minigrad.modes import refuse
from minigrad.tape import Op

if TYPE_CHECKING:
    from minigrad.capture.plan import Plan

Called = tuple[str, KernelCall]  # by which op


@contextmanager
def timeline(
    path: str | os.PathLike[str], *, device: Device | str = "cpu", limits: Limits | None = None
) -> Iterator[list[Called]]:
    """Write a trace of all kernels that run on a device inside the `with` block, with the op that called each.

        with mg.inspect.timeline("step.json"):
            loss = mg.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()

    Each kernel has its shapes, the bytes and operations it has to do, and, with `limits`, the share of the machine's limit
    that it reaches. Run a step before, so that nothing is compiled inside; on a GPU a time is that until the launch returns.
    Kernels of other threads are in it as well; replays of captured steps are not: see `plan_timeline`. The file is written
    when the block ends, also by an error.
    """
    refuse("a timeline inside a captured step would be of its recording; write one of step.plan, by plan_timeline")
    home = get_device(device)
    calls: list[Called] = []
    kernels = home.kernels
    vars(home)["kernels"] = NotedKernels(kernels, lambda call: calls.append((op_at_work(), call)))
    try:
        yield calls
    finally:
        vars(home)["kernels"] = kernels
        write(path, calls, limits, f"eager on {home.name}")


def plan_timeline(plan: "Plan", path: str | os.PathLike[str], *, limits: Limits | None = None) -> Path:
    """Write a trace of a captured step, `step.plan`: its launches, one after the other, each of its median time.

    Raises RuntimeError before the first replay, which measures them.
    """
    calls: list[Called] = []
    start = 0.0
    for launch in plan.launches:
        seconds = launch.seconds
        if seconds is None:
            raise RuntimeError(
                "the plan has no times yet; call the captured step once more, which replays and measures it"
            )
        work = work_of(launch.kernel, launch.given)
        call = KernelCall(launch.kernel, shapes_of(launch.given), work.operations, work.bytes, start, seconds)
        calls.append((launch.op or "step", call))
        start += seconds
    return write(path, calls, limits, f"captured on {plan.device.name}")


def op_at_work() -> str:
    """The op whose forward or backward runs on this thread, or the class whose method launches."""
    frame = sys._getframe(1)
    found = "step"
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, Op) and frame.f_code.co_name in ("forward", "backward"):
            return type(owner).__name__ + " backward" * (frame.f_code.co_name == "backward")
        if found == "step" and frame.f_code.co_name in ("step", "zero_grad") and owner is not None:
            found = type(owner).__name__
        frame = frame.f_back  # type: ignore[assignment]
    return found


def write(path: str | os.PathLike[str], calls: list[Called], limits: Limits | None, title: str) -> Path:
    """Write the trace as JSON, in the format of trace events."""
    first = calls[0][1].start if calls else 0.0
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": f"minigrad, {title}"}},
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": 1, "args": {"name": "ops"}},
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": 2, "args": {"name": "kernels"}},
    ]
    latest: dict[str, Any] = {}
    for op, call in calls:
        start = (call.start - first) * 1e6
        about: dict[str, Any] = {"op": op, "shapes": shapes_in_words(call.shapes), "bytes": call.nbytes}
        if call.operations is not None:
            about["operations"] = call.operations
        if limits is not None and call.seconds > 0:
            about["share of the limit"] = round(limits.least(Work(call.operations, call.nbytes)) / call.seconds, 4)
        event: dict[str, Any] = {"cat": "kernel", "ph": "X", "pid": 1, "tid": 2, "ts": start, "dur": call.seconds * 1e6}
        if latest.get("name") == op:
            latest["dur"] = start + event["dur"] - latest["ts"]
        else:
            latest = {"name": op, **event, "cat": "op", "tid": 1}
            events.append(latest)
        events.append({"name": call.kernel, **event, "args": about})
    target = Path(path)
    target.write_text(json.dumps({"displayTimeUnit": "ms", "traceEvents": events}), encoding="utf-8")
    return target
