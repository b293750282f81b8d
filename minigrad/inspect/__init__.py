"""See how autograd works: the tape as a table or a picture, backward step by step, and the inside of a model.

with mg.inspect.record():
    loss = ...
print(mg.inspect.table(loss))
mg.inspect.draw(loss, "tape.svg")
mg.inspect.draw_model(model, (1, 32, 32, 3), "model.svg")
mg.inspect.page(loss, "tape.html")
for step in mg.inspect.steps(loss):
    print(step)
"""

from minigrad.inspect.drawing import draw
from minigrad.inspect.graph import record, trace
from minigrad.inspect.limits import Limits, limits
from minigrad.inspect.listing import table
from minigrad.inspect.model_drawing import draw_model
from minigrad.inspect.modules import activations, summary
from minigrad.inspect.page import page
from minigrad.inspect.stepping import steps
from minigrad.inspect.timeline import plan_timeline, timeline

__all__ = [
    "Limits",
    "activations",
    "draw",
    "draw_model",
    "limits",
    "page",
    "plan_timeline",
    "record",
    "steps",
    "summary",
    "table",
    "timeline",
    "trace",
]
