"""mg.capture: run a training step once, note every kernel it launched, and from then on launch just those.

The first call with given shapes runs the step as usual, on a device that notes each launch: the compiled function and the
very arrays it worked on. Those arrays come from a pool of the recording's own, where memory is used again as soon as
the step has let go of it, so the plan of the memory is that of the recorded run. Later calls copy their inputs into the
recorded input arrays and launch the list again: no Tensor, no tape, no Python but a loop. After a few replays, machine code
takes over from the loop where it can (minigrad.kernels.cpu.tools.replay).

What may change from call to call must therefore live in arrays: the inputs, the parameters, running statistics, the
optimizer's state and learning rate, the counter of dropout. What Python decided while recording stays decided. A call
selects its recording by the shapes and dtypes of its inputs and by its Python values; a recording is good only while what the
step found is still so: the arrays of tensors (parameters, buffers), whether they have a gradient, the attributes of modules
and optimizers, and what the names in the step's code stand for. Otherwise the step is recorded anew.

    captured   Captured: select a recording, record, replay     arguments, results   what goes in and out
    recorder   stands in for the device, notes launches         plan                 a recording, its replay and conditions
    launches   what it notes, and what is put off until its kernel is compiled
    finder     what the step's code can read, from its names    names                the names, from instructions
    watch      comparing it, before each replay
"""

from minigrad.capture.captured import MOST_RECORDINGS, Captured, CapturedMethod, capture
from minigrad.capture.plan import TIMED_REPLAYS, Plan
from minigrad.capture.results import each_tensor

__all__ = ["MOST_RECORDINGS", "TIMED_REPLAYS", "Captured", "CapturedMethod", "Plan", "capture", "each_tensor"]
