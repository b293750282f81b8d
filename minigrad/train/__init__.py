"""Training: `fit`, `evaluate`, `predict`, and what watches a run.

optimizer = mg.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
history = mg.train.fit(
    model, optimizer, loader, epochs=20, validation=test_loader,
    schedule=mg.optim.StepSchedule(optimizer, every=10),
    checkpoint="runs/first", resume=True,
    callbacks=[mg.train.HistoryFile("runs/first/history.csv"), mg.train.EarlyStop(5)],
)
"""

from minigrad.train.callbacks import Checkpoints, EarlyStop, HistoryFile
from minigrad.train.divergence import DivergedError
from minigrad.train.evaluation import accuracy, evaluate
from minigrad.train.fit import fit
from minigrad.train.history import History
from minigrad.train.prediction import predict
from minigrad.train.progress import Progress
from minigrad.train.run import Run
from minigrad.train.signals import TrainingInterrupted
from minigrad.train.watching import LearningRates, TensorBoard, confusion_matrix, find_learning_rate, plot

__all__ = [
    "Checkpoints",
    "DivergedError",
    "EarlyStop",
    "History",
    "HistoryFile",
    "LearningRates",
    "Progress",
    "Run",
    "TensorBoard",
    "TrainingInterrupted",
    "accuracy",
    "confusion_matrix",
    "evaluate",
    "find_learning_rate",
    "fit",
    "plot",
    "predict",
]
