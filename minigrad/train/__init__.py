"""Training: `fit`, `evaluate`, and what watches a run."""

from minigrad.train.callbacks import Checkpoints, EarlyStop, HistoryFile
from minigrad.train.divergence import DivergedError
from minigrad.train.evaluation import accuracy, evaluate
from minigrad.train.fit import fit
from minigrad.train.history import History
from minigrad.train.progress import Progress
from minigrad.train.run import Run

__all__ = [
    "Checkpoints",
    "DivergedError",
    "EarlyStop",
    "History",
    "HistoryFile",
    "Progress",
    "Run",
    "accuracy",
    "evaluate",
    "fit",
]
