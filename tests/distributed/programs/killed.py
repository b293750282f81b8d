"""A run that may be killed at any moment, and goes on where its last checkpoint was."""

import os
import sys
from pathlib import Path

import training
from told import bits, result

import minigrad as mg
from minigrad import distributed

folder, steps = Path(sys.argv[1]), int(sys.argv[2])
distributed.init(timeout=200)
(folder / f"{distributed.rank}.pid").write_text(str(os.getpid()))
model = training.network(mg.nn.SyncBatchNorm, dropout=0.1)
images, labels = training.data()
history = mg.train.fit(
    model, mg.optim.SGD(model.parameters(), 0.1, momentum=0.9), mg.data.Loader(images, labels, batch_size=60, seed=1),
    steps=steps, log_every=50, checkpoint=mg.train.Checkpoints(folder, every_steps=7), resume=True, progress=False,
)  # fmt: skip
result({"weights": bits(model.parameters()), "rows": training.plain_rows(history)})
