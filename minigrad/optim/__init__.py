"""Optimizers, which update all parameters in one kernel launch, clipping of gradients, and learning-rate schedules."""

from minigrad.optim.adaptive import AdaGrad, Adam, AdamW, RMSprop
from minigrad.optim.clipping import clip_grad_norm, clip_grad_value
from minigrad.optim.optimizer import Optimizer, ParamGroup
from minigrad.optim.schedules import (
    CosineSchedule,
    ExponentialSchedule,
    FunctionSchedule,
    OneCycleSchedule,
    PlateauSchedule,
    Schedule,
    StepSchedule,
    WarmupSchedule,
)
from minigrad.optim.settings import checked
from minigrad.optim.sgd import SGD

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "CosineSchedule",
    "ExponentialSchedule",
    "FunctionSchedule",
    "OneCycleSchedule",
    "Optimizer",
    "ParamGroup",
    "PlateauSchedule",
    "RMSprop",
    "Schedule",
    "StepSchedule",
    "WarmupSchedule",
    "checked",
    "clip_grad_norm",
    "clip_grad_value",
]
