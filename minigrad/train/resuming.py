"""What a checkpoint holds of a training run beside model, optimizer, schedule and loader, and how a run goes on from that."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from minigrad import random
from minigrad.checkpoint import Json, Stateful
from minigrad.checkpoint.misfits import state_misfit
from minigrad.checks import integer, number
from minigrad.train.evaluation import Tally
from minigrad.train.history import History

if TYPE_CHECKING:
    from minigrad.train.run import Run


def state_of(run: "Run") -> dict[str, Json]:
    """What a checkpoint holds of a run."""
    return {
        "start": run.start,
        "step": run.step,
        "lr": run.lr,
        "seconds": run.seconds,
        "in_epoch": run.in_epoch.state_dict(),
        "in_row": run.in_row.state_dict(),
        "history": asdict(run.history),
        "callbacks": {name: c.state_dict() for name, c in named(run.callbacks)},
    }


def go_on(run: "Run", state: Mapping[str, Json]) -> None:
    """Take up such a state, which has no misfits."""
    run.start, run.step, run.lr = state["start"], state["step"], state["lr"]
    run.target = run.start + run.count
    run.earlier_seconds = state["seconds"]
    run.in_epoch.load_state_dict(state["in_epoch"])
    run.in_row.load_state_dict(state["in_row"])
    run.history = History(**state["history"])
    for name, callback in named(run.callbacks):
        if name in state["callbacks"]:
            callback.load_state_dict(state["callbacks"][name])
    go_on_drawing(run, state.get("random", []))


def go_on_drawing(run: "Run", states: list[Json]) -> None:
    """Take up the random numbers of this process from those of all that wrote a checkpoint.

    There `mg.random` has the state of rank 0 by now. Where all had the same it is anybody's, whatever the number of
    processes; where each had its own, those that were not there begin as their script has seeded them.
    """
    if any(state != states[0] for state in states):
        own = states[run.ranks.rank] if run.ranks.rank < len(states) else run.drawing_before
        random.load_state_dict(own)


def misfits(run: "Run", extra: Json) -> list[str]:
    """Why a checkpoint's entry `extra` cannot be taken up by a run, if it cannot; all is as before."""
    if not isinstance(extra, dict) or not isinstance(extra.get("run"), dict):
        return ["extra: it holds no run; only checkpoints that fit has written can be resumed"]
    state = extra["run"]
    try:
        for name in ("start", "step"):
            integer(name, state[name], 0, (1 << 63) - 1)
        for name in ("lr", "seconds"):
            number(name, state[name], math.inf)
        for name in ("in_epoch", "in_row"):
            Tally().load_state_dict(state[name])
        if set(state["history"]) != set(vars(History())):
            raise ValueError(f"a history has {sorted(vars(History()))}, not {state['history']!r}")
        History(**state["history"]).check()
        for drawn in state.get("random", []):
            problems = state_misfit("random", random, drawn)
            if problems:
                return problems
        states = state["callbacks"]
        known = {name: callback for name, callback in named(run.callbacks) if name in states}
        return [why for name in known for why in state_misfit(f"callback {name}", known[name], states[name])]
    except (KeyError, TypeError, ValueError) as error:
        return [f"extra: it holds no run that fit has written: {type(error).__name__}: {error}"]


def named(callbacks: list[object]) -> Iterator[tuple[str, Stateful]]:
    """(name, callback) of those that keep a state; the second EarlyStop is "EarlyStop 2"."""
    seen: dict[str, int] = {}
    for callback in callbacks:
        if hasattr(callback, "state_dict"):
            kind = type(callback).__name__
            seen[kind] = number = seen.get(kind, 0) + 1
            yield kind if number == 1 else f"{kind} {number}", cast(Stateful, callback)
